"""Rearrangement of weights, after they have timm's keys, to the layout of timm's models."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from gtsa_kit.models.checkpoint_import.conversion import ConvertedWeights
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict

TABLES: Final = re.compile(r"(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)")
"""Tables of rotary positions that EVA02 stores, once for the model and once for each block."""


@dataclass(frozen=True)
class Layout:
    """Weights of a timm model, and rotary positions that were stored with them."""

    weights: StateDict
    periods: Tensor | None = None
    """Periods of rotary positions (head_dim / 4,), as DINOv3 stores them."""
    tables: StateDict = field(default_factory=dict)
    """Cosines and sines of rotary positions (h * w, head_dim) by their keys, as EVA02 stores them."""


def arrange(converted: ConvertedWeights, key_format: str, file: Path) -> Layout:
    """Return weights in the layout of timm's models.

    Args:
        converted: Weights by timm's keys.
        key_format: Format that they had.
        file: Their file, for errors.

    Raises:
        ValueError: Keys have biases, which timm's models with rotary positions lack.
    """
    weights = dict(converted.weights)
    tables = {name: weights.pop(name) for name in list(weights) if TABLES.fullmatch(name)}
    periods = weights.pop("rope_embed.periods", None)
    if key_format in ("clip", "hf_clip"):
        _add_batch_axes(weights)
    if "reg_token" in weights and weights["reg_token"].numel() == 0:
        del weights["reg_token"]
    if converted.names.get("reg_token", ("",))[0].endswith("register_tokens") and "pos_embed" in weights:
        _fold_class_position(weights)
    if periods is not None or key_format.startswith("hf_dinov3"):
        _arrange_dinov3(weights, converted, file)
    elif "pos_embed" in weights:
        _rename_layer_scale(weights)
    return Layout(weights, periods, tables)


def _add_batch_axes(weights: StateDict) -> None:
    """Give class token (D) and positions (N, D) their first axes."""
    for name, axes in (("cls_token", 3), ("pos_embed", 3)):
        while name in weights and weights[name].ndim < axes:
            weights[name] = weights[name][None]


def _fold_class_position(weights: StateDict) -> None:
    """Add the position of the class token to it; timm has none for the prefix tokens of DINOv2 with registers."""
    if weights["pos_embed"].ndim == 3 and "cls_token" in weights:
        weights["cls_token"] = weights["cls_token"] + weights["pos_embed"][:, :1]
        weights["pos_embed"] = weights["pos_embed"][:, 1:]


def _rename_layer_scale(weights: StateDict) -> None:
    """Rename LayerScale of the original DeiT3 as timm's VisionTransformer has it; timm's Eva has no bias of keys."""
    for name in [name for name in weights if re.fullmatch(r"blocks\.\d+\.gamma_[12]", name)]:
        block, _, kind = name.rpartition(".")
        if f"{block}.attn.qkv.bias" in weights:
            weights[f"{block}.ls{kind[-1]}.gamma"] = weights.pop(name)


def _arrange_dinov3(weights: StateDict, converted: ConvertedWeights, file: Path) -> None:
    """Name LayerScale and biases as timm's Eva, drop biases of keys that are zero or masked out, and add missing ones.

    Raises:
        ValueError: A bias of keys is not zero.
    """
    for name in [name for name in weights if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        weights[re.sub(r"ls([12])\.gamma$", r"gamma_\1", name)] = weights.pop(name)
    for block in sorted({name.rpartition(".norm1.")[0] for name in weights if name.endswith(".norm1.weight")}):
        biases = _split_biases(weights, f"{block}.attn")
        if "k" in biases and not (biases["k"] == 0).all():
            names = converted.names.get(f"{block}.attn.k_bias") or converted.names[f"{block}.attn.qkv.bias"]
            raise ValueError(
                f"{file} has biases of keys ({names[0]}), which gtsa-kit's ViTs with rotary positions do not compute; "
                "of this family only weights without them are taken"
            )
        if biases:
            zeros = torch.zeros(weights[f"{block}.norm1.weight"].shape)
            weights |= {f"{block}.attn.{part}_bias": biases.get(part, zeros) for part in "qv"}
        for part in ("weight", "bias"):  # timm packs both layers of a gated MLP
            if (gate := weights.pop(f"{block}.mlp.fc1_g.{part}", None)) is not None:
                weights[f"{block}.mlp.fc1.{part}"] = torch.cat([gate, weights[f"{block}.mlp.fc1.{part}"]])
        for layer in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            if (weight := weights.get(f"{block}.{layer}.weight")) is not None:
                weights.setdefault(f"{block}.{layer}.bias", torch.zeros(len(weight)))


def _split_biases(weights: StateDict, attention: str) -> dict[str, Tensor]:
    """Take the biases of queries, keys and values, those that exist, out of weights."""
    fused = weights.pop(f"{attention}.qkv.bias", None)
    mask = weights.pop(f"{attention}.qkv.bias_mask", None)
    parts = {part: weights.pop(f"{attention}.{part}_bias", None) for part in "qkv"}
    if fused is not None:
        # The original multiplies by the mask; what it masks out may hold anything.
        fused = fused if mask is None else torch.where(mask == 0, torch.zeros_like(fused), fused * mask)
        parts = dict(zip("qkv", fused.chunk(3), strict=True))
    return {part: bias for part, bias in parts.items() if bias is not None}
