"""The index of weights in several files, and the digest of weights in one file or several."""

import hashlib
import re
from pathlib import Path
from typing import Final

from pydantic import Field

from gtsa_kit.files import sha256_of
from gtsa_kit.models.checkpoint_import.sidecar_files import Lenient, parse

INDEX: Final = ".index.json"
"""End of the name of an index."""
SHARD: Final = re.compile(r"(?P<start>.+)-\d+-of-\d+(?P<end>\.safetensors|\.bin)")
"""Name of a shard."""


class ShardIndex(Lenient):
    """The index: the file of each tensor."""

    weight_map: dict[str, str] = Field(min_length=1)


def sha256_of_weights(path: Path) -> str:
    """Return the SHA-256 of a file; for an index, that of the digests of the index and of its shards."""
    if not path.name.endswith(INDEX):
        return sha256_of(path)
    shards = shard_files(path, parse(ShardIndex, path).weight_map)
    lines = [sha256_of(path), *(f"{sha256_of(shard)}  {name}" for name, shard in shards.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def shard_files(index: Path, weight_map: dict[str, str]) -> dict[str, Path]:
    """Return the shards of an index by name, sorted.

    Raises:
        ValueError: A name is a path, or a shard is missing or surplus.
    """
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not SHARD.fullmatch(name):
            raise ValueError(f"{index} names the file {name!r}, which is not the name of a shard; copy it again")
    if missing := [name for name in names if not index.with_name(name).is_file()]:
        raise ValueError(f"{index} names {', '.join(missing)}, which {_is(missing)} missing; copy it beside the index")
    present = [(path.name, SHARD.fullmatch(path.name)) for path in index.parent.iterdir()]
    own = {name for name, match in present if match and f"{match['start']}{match['end']}{INDEX}" == index.name}
    if surplus := sorted(own - set(names)):
        raise ValueError(f"{index} does not name {', '.join(surplus)}, which {_is(surplus)} beside it; copy both again")
    return {name: index.with_name(name) for name in names}


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
