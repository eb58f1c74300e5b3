"""Key names of one ViT in timm, transformers, torchvision, and OpenMMLab's libraries."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

# The keys of every format are in the order of timm's. "#" stands for the number of a block, "*" for weight and bias.
# Three names for qkv are three tensors, which timm concatenates.
_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
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
    # Files on the Hugging Face hub, and all that transformers writes.
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
    # `state_dict()` of transformers 5.
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
    "torchvision": (
        "class_token",
        "encoder.pos_embedding",
        "conv_proj.*",
        "encoder.layers.encoder_layer_#.ln_1.*",
        "encoder.layers.encoder_layer_#.self_attention.in_proj_*",
        "encoder.layers.encoder_layer_#.self_attention.out_proj.*",
        "encoder.layers.encoder_layer_#.ln_2.*",
        "encoder.layers.encoder_layer_#.mlp.0.*",
        "encoder.layers.encoder_layer_#.mlp.3.*",
        "encoder.ln.*",
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

# Keys that only some ViTs have, in pairs of timm's key and that of the format; several may stand for one of timm's.
_OPTIONAL: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "timm": (
        *((name, name) for name in ("reg_token", "norm_pre.*", "blocks.#.ls1.gamma", "blocks.#.ls2.gamma")),
        *((f"blocks.#.attn.{name}",) * 2 for name in ("q_norm.*", "k_norm.*", "q_bias", "v_bias", "norm.*")),
        *((f"blocks.#.{name}",) * 2 for name in ("gamma_1", "gamma_2", "mlp.fc1_g.*", "mlp.fc1_x.*", "mlp.norm.*")),
        ("norm.*", "fc_norm.*"),  # the norm of the mean, in models that average
    ),
}
SOME_LACK: Final = (
    *("cls_token", "pos_embed", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
    *("attn.qkv.bias", "mlp.fc1.weight", "mlp.fc1.bias"),
)
"""Endings of timm's keys in `key_map` that some ViTs lack."""

KEY_FORMATS: Final = tuple(_TEMPLATES)


def library_of(key_format: str) -> str:
    """Return the name of the library that uses a key format; both formats of transformers are "hf"."""
    return key_format.partition("_")[0]


def key_map(key_format: str, depth: int) -> dict[str, tuple[str, ...]]:
    """Map every key of a timm ViT to its key in another format.

    Args:
        key_format: One of `KEY_FORMATS`.
        depth: Number of blocks.

    Returns:
        One key for each key of timm; three for qkv where queries, keys and values are separate tensors.
    """
    return dict(_pairs(zip(_TEMPLATES["timm"], _TEMPLATES[key_format], strict=True), depth))


def optional_keys(key_format: str, depth: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return pairs, as `key_map` has them, of keys that only some ViTs have."""
    return list(_pairs(_OPTIONAL.get(key_format, ()), depth))


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
