"""Renaming of the weights of a ViT between timm's keys and those of other libraries and of original code."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from gtsa_kit.models.checkpoint_import.key_templates import OPTIONAL, TEMPLATES

KEY_FORMATS: Final = tuple(TEMPLATES)
_CHUNK: Final = re.compile(r"(.*\bblocks\.)\d+\.(\d+\..*)")


def library_of(key_format: str) -> str:
    """Return the name of the library that uses a key format; every format of transformers is "hf"."""
    return key_format.partition("_")[0]


def key_map(key_format: str, depth: int) -> dict[str, tuple[str, ...]]:
    """Map every key of a timm ViT to its key in another format.

    Args:
        key_format: One of `KEY_FORMATS`.
        depth: Number of blocks.

    Returns:
        One key for each key of timm; three for qkv where queries, keys and values are separate tensors.
    """
    return dict(_pairs(zip(TEMPLATES["timm"], TEMPLATES[key_format], strict=True), depth))


def optional_keys(key_format: str, depth: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return pairs, as `key_map` has them, of keys that only some ViTs have."""
    return list(_pairs(OPTIONAL.get(key_format, ()), depth))


def _pairs(templates: Iterable[tuple[str, str]], depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each key of timm with its keys in another format, for every block, weight and bias."""
    for ours, theirs in templates:
        for block in range(depth) if "#" in ours else [0]:
            for part in ("weight", "bias") if "*" in ours else [""]:
                yield _fill(ours, block, part), tuple(_fill(name, block, part) for name in theirs.split())


def to_timm(weights: Mapping[str, Tensor], keys: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Rename weights to timm's keys, by pairs of timm's keys and theirs; those with a missing tensor are skipped."""
    return {
        ours: torch.cat([weights[name] for name in theirs]) if len(theirs) > 1 else weights[theirs[0]]
        for ours, theirs in keys.items()
        if all(name in weights for name in theirs)
    }


def from_timm(weights: Mapping[str, Tensor], keys: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Rename timm's keys by a `key_map` of another format; each tensor owns its memory, which safetensors needs."""
    return {
        name: part.clone(memory_format=torch.contiguous_format)
        for ours, theirs in keys.items()
        for name, part in zip(theirs, weights[ours].chunk(len(theirs)), strict=True)
    }


def _fill(template: str, block: int, part: str) -> str:
    return template.replace("#", str(block)).replace("*", part)


def join_chunks(state_dicts: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Rename blocks in chunks, such as `blocks.0.3.norm1.weight` of the training code of DINOv2, to `blocks.3`.

    The number of a block counts through all chunks.
    """
    return {entry: _join_chunks(tensors) for entry, tensors in state_dicts.items()}


def _join_chunks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(name.endswith(".attn.qkv.weight") and _CHUNK.fullmatch(name) for name in tensors):
        return tensors
    joined = {_CHUNK.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    return joined if len(joined) == len(tensors) else tensors
