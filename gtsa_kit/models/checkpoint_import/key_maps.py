"""What the parts of one and the same ViT are called in timm, in transformers, and in OpenMMLab's libraries."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

# A row a layout, in the order of timm's. "#" stands for the number of the block and "*" for weight and for bias; three
# names for qkv are three tensors, stacked.
_ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "timm": (
        "cls_token",
        "pos_embed",
        "patch_embed.proj.*",
        "blocks.#.norm1.*",
        "blocks.#.attn.qkv.*",
        "blocks.#.attn.proj.*",
        "blocks.#.norm2.*",
        "blocks.#.mlp.fc1.*",
        "blocks.#.mlp.fc2.*",
        "norm.*",
    ),
    # Files on the hub, and all that transformers writes.
    "hf": (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.*",
        "encoder.layer.#.layernorm_before.*",
        "encoder.layer.#.attention.attention.query.* "
        "encoder.layer.#.attention.attention.key.* "
        "encoder.layer.#.attention.attention.value.*",
        "encoder.layer.#.attention.output.dense.*",
        "encoder.layer.#.layernorm_after.*",
        "encoder.layer.#.intermediate.dense.*",
        "encoder.layer.#.output.dense.*",
        "layernorm.*",
    ),
    # What `state_dict()` of transformers 5 says.
    "hf_live": (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.*",
        "layers.#.layernorm_before.*",
        "layers.#.attention.q_proj.* layers.#.attention.k_proj.* layers.#.attention.v_proj.*",
        "layers.#.attention.o_proj.*",
        "layers.#.layernorm_after.*",
        "layers.#.mlp.fc1.*",
        "layers.#.mlp.fc2.*",
        "layernorm.*",
    ),
    "mmseg": (
        "cls_token",
        "pos_embed",
        "patch_embed.projection.*",
        "layers.#.ln1.*",
        "layers.#.attn.attn.in_proj_*",
        "layers.#.attn.attn.out_proj.*",
        "layers.#.ln2.*",
        "layers.#.ffn.layers.0.0.*",
        "layers.#.ffn.layers.1.*",
        "ln1.*",
    ),
    "mmpretrain": (
        "cls_token",
        "pos_embed",
        "patch_embed.projection.*",
        "layers.#.ln1.*",
        "layers.#.attn.qkv.*",
        "layers.#.attn.proj.*",
        "layers.#.ln2.*",
        "layers.#.ffn.layers.0.0.*",
        "layers.#.ffn.layers.1.*",
        "ln1.*",
    ),
}

LAYOUTS: Final = tuple(_ROWS)


def library(layout: str) -> str:
    """What people call a layout: both of transformers' are "hf"."""
    return layout.partition("_")[0]


def key_map(layout: str, depth: int) -> dict[str, tuple[str, ...]]:
    """Every key of a timm ViT of `depth` blocks, and the one key (for qkv, perhaps three) that it has in `layout`."""
    return {
        _fill(ours, block, part): tuple(_fill(name, block, part) for name in theirs.split())
        for ours, theirs in zip(_ROWS["timm"], _ROWS[layout], strict=True)
        for block in (range(depth) if "#" in ours else [0])
        for part in (("weight", "bias") if "*" in ours else [""])
    }


def to_timm(weights: Mapping[str, Tensor], keys: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Weights renamed to timm's keys by a `key_map` of their layout, without those that are not all there."""
    return {
        ours: torch.cat([weights[name] for name in theirs]) if len(theirs) > 1 else weights[theirs[0]]
        for ours, theirs in keys.items()
        if all(name in weights for name in theirs)
    }


def from_timm(weights: Mapping[str, Tensor], keys: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The inverse of `to_timm`; each tensor owns its memory, as files want it."""
    return {
        name: part.clone(memory_format=torch.contiguous_format)
        for ours, theirs in keys.items()
        for name, part in zip(theirs, weights[ours].chunk(len(theirs)), strict=True)
    }


def _fill(template: str, block: int, part: str) -> str:
    return template.replace("#", str(block)).replace("*", part)
