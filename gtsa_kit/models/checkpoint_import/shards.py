"""Weights in several files, with an index that names the file of each tensor, as transformers saves large models."""

from pathlib import Path

from gtsa_kit.models.checkpoint_import.shard_index import INDEX, SHARD, ShardIndex, shard_files
from gtsa_kit.models.checkpoint_import.sidecar_files import parse
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict, read_tensors


def read_weights(path: Path) -> dict[str, StateDict]:
    """Read the tensors of a file, or of all shards of an index; see `read_tensors`.

    Raises:
        ValueError: A file is damaged, a shard is missing, surplus or not that of the index, or `path` is one shard.
    """
    if not path.name.endswith(INDEX):
        _check_no_shard(path)
        return read_tensors(path)
    weight_map = parse(ShardIndex, path).weight_map
    shards = shard_files(path, weight_map)
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


def _check_no_shard(path: Path) -> None:
    """Raise `ValueError` if a file is one of several that an index beside it names."""
    match = SHARD.fullmatch(path.name)
    index = path.with_name(f"{match['start']}{match['end']}{INDEX}") if match else None
    if index and index.exists():
        raise ValueError(f"{path} is one shard of several; name {index.name} or the folder")
