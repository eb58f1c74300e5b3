"""Weights in several files, with an index that names the file of each tensor, as transformers saves large models."""

import hashlib
import re
from pathlib import Path
from typing import Final

from pydantic import Field

from gtsa_kit.files import sha256_of
from gtsa_kit.models.checkpoint_import.sidecar_files import Lenient, parse
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict, read_tensors

INDEX: Final = ".index.json"
"""End of the name of an index."""
SHARD: Final = re.compile(r"(?P<start>.+)-\d+-of-\d+(?P<end>\.safetensors|\.bin)")
"""Name of a shard."""


class _Index(Lenient):
    weight_map: dict[str, str] = Field(min_length=1)


def read_weights(path: Path) -> dict[str, StateDict]:
    """Read the tensors of a file, or of all shards of an index; see `read_tensors`.

    Raises:
        ValueError: A file is damaged, a shard is missing, surplus or not that of the index, or `path` is one shard.
    """
    if not path.name.endswith(INDEX):
        _check_no_shard(path)
        return read_tensors(path)
    weight_map = parse(_Index, path).weight_map
    shards = _shards(path, weight_map)
    weights: StateDict = {}
    for name, shard in shards.items():
        tensors = read_tensors(shard).get("", {})
        mapped = {key for key, file in weight_map.items() if file == name}
        if lacks := sorted(mapped - tensors.keys()):
            raise ValueError(f"{shard} lacks {lacks[0]}, which {path.name} says it holds; copy both again")
        if surplus := sorted(tensors.keys() - mapped):
            raise ValueError(f"{shard} holds {surplus[0]}, which {path.name} does not name; copy both again")
        weights |= tensors
    return {"": weights}


def sha256_of_weights(path: Path) -> str:
    """Return the SHA-256 of a file; for an index, that of the digests of the index and of its shards."""
    if not path.name.endswith(INDEX):
        return sha256_of(path)
    shards = _shards(path, parse(_Index, path).weight_map)
    lines = [sha256_of(path), *(f"{sha256_of(shard)}  {name}" for name, shard in shards.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _shards(index: Path, weight_map: dict[str, str]) -> dict[str, Path]:
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


def _check_no_shard(path: Path) -> None:
    """Raise `ValueError` if a file is one of several that an index beside it names."""
    match = SHARD.fullmatch(path.name)
    index = path.with_name(f"{match['start']}{match['end']}{INDEX}") if match else None
    if index and index.exists():
        raise ValueError(f"{path} is one shard of several; name {index.name} or the folder")


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
