"""Comparison of weights with the sizes that files beside them state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtsa_kit.models.checkpoint_import.tensor_files import StateDict


def check_sizes(
    stated: Mapping[str, Any], weights: StateDict, grid: tuple[int, int] | None, patch: int, file: Path
) -> None:
    """Raise `ValueError` if a file beside the weights states other sizes than theirs."""
    hidden, width = hidden_width(weights), weights["patch_embed.proj.weight"].shape[0]
    image = [patch * side for side in grid] if grid else None
    actual = {
        **dict.fromkeys(("hidden_size", "embed_dim", "width"), width),
        **dict.fromkeys(("num_hidden_layers", "depth", "layers"), count_blocks(weights)),
        **dict.fromkeys(("image_size", "img_size"), image),
        **dict.fromkeys(("num_channels", "in_chans"), weights["patch_embed.proj.weight"].shape[1]),
        **dict.fromkeys(("use_swiglu_ffn", "use_gated_mlp"), is_gated(weights)),
        "num_register_tokens": weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        "patch_size": patch,
        "intermediate_size": hidden,
    }
    ratio = stated.get("mlp_ratio")
    if ratio is not None and hidden not in _hidden_widths(int(width * ratio), is_gated(weights)):
        raise ValueError(
            f"config.json beside {file} says mlp_ratio is {ratio}, but the weights have {hidden / width:g}; "
            "copy both again"
        )
    for name, value in stated.items():
        pair = list(value) if isinstance(value, list | tuple) else [value, value]
        own = actual.get(name)
        if own is not None and pair != (own if isinstance(own, list) else [own, own]):
            real = own[0] if isinstance(own, list) and own[0] == own[1] else own
            raise ValueError(
                f"config.json beside {file} says {name} is {value}, but the weights have {real}; copy both again"
            )


def hidden_width(weights: StateDict) -> int:
    """Return the width between the layers of an MLP."""
    return int(weights["blocks.0.mlp.fc2.weight"].shape[1])


def is_gated(weights: StateDict) -> bool:
    """Return whether MLPs multiply two halves of their first layer."""
    packed = weights.get("blocks.0.mlp.fc1.weight")
    return packed is not None and len(packed) == 2 * hidden_width(weights)


def _hidden_widths(hidden: int, gated: bool) -> tuple[int, ...]:
    """Return the widths between the layers of an MLP that a ratio may stand for; gated ones may halve or cut it."""
    return (hidden, hidden // 2, (int(hidden * 2 / 3) + 7) // 8 * 8) if gated else (hidden,)


def check_biases(stated: Mapping[str, bool], weights: StateDict, file: Path) -> None:
    """Raise `ValueError` if a file beside the weights of a rotary ViT states other biases than theirs.

    Args:
        stated: Whether layers have a bias, by the file's names.
        weights: Weights by timm's keys, before they are rearranged.
        file: Their file, for errors.
    """
    attention, has_fused = "blocks.0.attn", "blocks.0.attn.qkv.bias" in weights
    names = {"query_bias": "q_bias", "key_bias": "k_bias", "value_bias": "v_bias"}
    actual = {name: has_fused or f"{attention}.{own}" in weights for name, own in names.items()}
    actual |= {"proj_bias": f"{attention}.proj.bias" in weights, "mlp_bias": "blocks.0.mlp.fc1.bias" in weights}
    for name, value in stated.items():
        if actual[name] != value:
            raise ValueError(
                f"config.json beside {file} says {name} is {value}, but the weights say otherwise; copy both again"
            )


def count_blocks(weights: StateDict) -> int:
    """Return the number of blocks."""
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
