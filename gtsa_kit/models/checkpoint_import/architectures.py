"""Architecture of weights under timm's keys: from their shapes, and from what the files beside them say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gtsa_kit.models.architecture import ARCHITECTURES, Architecture
from gtsa_kit.models.checkpoint_import.families import TIMM, Family
from gtsa_kit.models.checkpoint_import.layouts import Layout
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata
from gtsa_kit.models.checkpoint_import.stated_sizes import check_sizes, count_blocks, hidden_width, is_gated
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict
from gtsa_kit.models.weights import guess_architecture

MOCO_HEADS: Final = 12
"""Attention heads of both ViTs of MoCo v3: its ViT-S has twice the number of other ViT-S."""
HEAD_WIDTH: Final = 64
"""Width of an attention head in every published ViT but that of MoCo v3."""
DEFAULT_SIZE: Final = 224
"""Image size of timm's models that an `Architecture` builds on."""
ROTARY_MODEL, POSITIONED_ROTARY_MODEL = "vit_small_patch16_dinov3", "eva02_small_patch14_224"
"""Models of timm with rotary positions alone, and with learned ones beside them."""
GATED_MODEL: Final = "vit_giant_patch14_dinov2"
"""Model of timm with learned positions and gated MLPs."""
PERIOD: Final = 100.0
"""Longest period of the rotary positions of DINOv3."""
INIT_VALUE: Final = 1e-5
"""Initial LayerScale, which the weights replace."""


def find_architecture(
    layout: Layout, metadata: CheckpointMetadata, origin: str, file: Path, family: Family = TIMM
) -> Architecture:
    """Return the architecture of weights.

    Args:
        layout: Weights in timm's layout.
        metadata: What the files beside them say.
        origin: Tool that wrote them.
        file: Their file, for errors.
        family: Facts that neither weights nor files state.

    Raises:
        ValueError: The shapes contradict each other or the files beside them, or no encoder has them.
    """
    recorded = metadata.architecture if metadata.is_recorded else None
    if recorded and recorded.heads == metadata.heads:
        return recorded
    weights = layout.weights
    patch, prefix = _patch(weights, file), _prefix(weights)
    grid, no_embed_class = _grid(weights, prefix, metadata, file)
    check_sizes(metadata.sizes, weights, grid, patch, file)
    if metadata.architecture:
        base = metadata.architecture
        heads = _heads(base, metadata, origin, file)
        own = _image_size(base, grid, patch) | ({"num_heads": heads} if heads != base.heads else {})
        resampling = metadata.resampling or base.resampling
        kwargs = {**base.timm_kwargs, **own}
        return replace(base, name=_own_name(base), heads=heads, timm_kwargs=kwargs, resampling=resampling)
    rotary = any(name.endswith(("attn.q_bias", ".gamma_1")) for name in weights) or "pos_embed" not in weights
    base = _rotary_base(weights, patch, file) if rotary else _base(weights, patch, no_embed_class, file)
    if layout.periods is not None:
        base = replace(base, heads=max(1, base.width // (4 * len(layout.periods))))
    heads = _heads(base, metadata, origin, file)
    changes: dict[str, Any] = {"num_heads": heads} if heads != base.heads or rotary else {}
    activation = metadata.activation or family.activation
    changes |= {"act_layer": activation} if activation != base.activation else {}
    changes |= {"rope_temperature": metadata.rope_theta} if metadata.rope_theta else {}
    changes |= _image_size(base, grid or metadata.grid, patch)
    return replace(
        base,
        heads=heads,
        norm_eps=metadata.norm_eps or family.norm_eps or base.norm_eps,
        timm_kwargs={**base.timm_kwargs, **changes},
        resampling=metadata.resampling or family.resampling,
        rotary_periods=_own_periods(layout.periods, base.width // heads, file),
    )


def _own_periods(periods: Tensor | None, head_dim: int, file: Path) -> tuple[float, ...]:
    """Return stored periods of rotary positions if they differ from those that timm computes, which most files round.

    Raises:
        ValueError: Their number does not fit the heads.
    """
    if periods is None:
        return ()
    if len(periods) != head_dim // 4:
        raise ValueError(f"{file} has {len(periods)} periods of rotary positions, which do not fit heads of {head_dim}")
    computed = PERIOD ** (torch.arange(len(periods)) / len(periods))
    equal = torch.allclose(periods.float(), computed, rtol=1e-6, atol=0)
    return () if equal else tuple(periods.float().tolist())


def _patch(weights: StateDict, file: Path) -> int:
    """Return the side of a patch in pixels."""
    shape = tuple(weights["patch_embed.proj.weight"].shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(f"{file} has a patch kernel of {shape}; gtsa-kit's encoders take 3 colors in square patches")
    return shape[-1]


def _registers(weights: StateDict) -> int:
    """Return the number of register tokens."""
    return weights["reg_token"].shape[1] if "reg_token" in weights else 0


def _prefix(weights: StateDict) -> int:
    """Return the number of tokens before those of the patches."""
    return int("cls_token" in weights) + _registers(weights)


def _grid(
    weights: StateDict, prefix: int, metadata: CheckpointMetadata, file: Path
) -> tuple[tuple[int, int] | None, bool]:
    """Return the grid of position embeddings, None without any, and whether the prefix tokens have none.

    Raises:
        ValueError: The position embeddings form neither the grid of the files beside them nor a square.
    """
    if "pos_embed" not in weights:
        return None, False
    shape = tuple(weights["pos_embed"].shape)
    stated = metadata.grid
    for own in (prefix, 0) if len(shape) == 3 else ():
        count = shape[1] - own
        grid = stated if stated and math.prod(stated) == count else (math.isqrt(max(count, 0)),) * 2
        if count > 0 and math.prod(grid) == count:
            return (grid[0], grid[1]), own == 0 and prefix > 0
    raise ValueError(
        f"{file} has position embeddings of {shape}; they must be (1, {prefix} + rows x columns, width), of a square "
        "grid unless a config.json says its img_size"
    )


def _image_size(base: Architecture, grid: tuple[int, int] | None, patch: int) -> dict[str, Any]:
    """Return timm's argument for the image size of a grid, unless the model has that size already."""
    if grid is None:
        return {}
    height, width = grid[0] * patch, grid[1] * patch
    if height == width == DEFAULT_SIZE and "img_size" not in base.timm_kwargs and base.timm_model.endswith("_224"):
        return {}
    return {"img_size": height if height == width else [height, width]}


def _base(weights: StateDict, patch: int, no_embed_class: bool, file: Path) -> Architecture:
    """Return the architecture of a ViT of timm's class VisionTransformer, with the heads of its size."""
    hidden, width, depth = hidden_width(weights), weights["patch_embed.proj.weight"].shape[0], count_blocks(weights)
    gated = is_gated(weights)
    base = None if gated else guess_architecture(weights)
    base = base or _named(GATED_MODEL if gated else ARCHITECTURES["vit_tiny"].timm_model, width, depth)
    ratio = _ratio(hidden * (1 + gated), width) if hidden != 4 * width or gated else None
    registers = _registers(weights)
    flags = {
        "patch_size": patch if patch != base.patch else None,
        "mlp_ratio": ratio,
        "class_token": False if "cls_token" not in weights else None,
        "reg_tokens": registers or None,
        "no_embed_class": no_embed_class or None,
        "pre_norm": "norm_pre.weight" in weights or None,
        "init_values": INIT_VALUE if any(".ls1." in name for name in weights) else None,
        "qk_norm": any(".q_norm." in name for name in weights) or None,
    }
    kwargs = {**base.timm_kwargs, **{name: value for name, value in flags.items() if value is not None}}
    return replace(base, name=_suffixed(base.name, patch, registers), timm_kwargs=kwargs)


def _rotary_base(weights: StateDict, patch: int, file: Path) -> Architecture:
    """Return the architecture of a ViT of timm's class Eva."""
    hidden, width, depth = hidden_width(weights), weights["patch_embed.proj.weight"].shape[0], count_blocks(weights)
    positioned = "pos_embed" in weights
    base = _named(POSITIONED_ROTARY_MODEL if positioned else ROTARY_MODEL, width, depth)
    registers = _registers(weights)
    split = "blocks.0.mlp.fc1_g.weight" in weights
    kwargs = {
        **base.timm_kwargs,
        "patch_size": patch,
        "mlp_ratio": _ratio(hidden, width),
        "swiglu_mlp": split or is_gated(weights),
        "swiglu_align_to": int(split),
        "scale_mlp": "blocks.0.mlp.norm.weight" in weights,
        "scale_attn_inner": "blocks.0.attn.norm.weight" in weights,
        "qkv_bias": "blocks.0.attn.q_bias" in weights or "blocks.0.attn.q_proj.bias" in weights,
        "qkv_fused": "blocks.0.attn.qkv.weight" in weights,
        "class_token": "cls_token" in weights,
        "num_reg_tokens": registers,
        "init_values": INIT_VALUE if "blocks.0.gamma_1" in weights else None,
    }
    eps = 1e-6 if positioned else 1e-5
    return replace(base, name=_suffixed(base.name, patch, registers), timm_kwargs=kwargs, norm_eps=eps)


def _named(timm_model: str, width: int, depth: int) -> Architecture:
    """Return an architecture of any width and depth."""
    sizes = {384: "small", 768: "base", 1024: "large"}
    size = sizes.get(width) if depth == (24 if width == 1024 else 12) else None
    heads = max(1, width // HEAD_WIDTH)
    kwargs = {"embed_dim": width, "depth": depth, "num_heads": heads}
    return Architecture(f"vit_{size or f'{width}x{depth}'}", timm_model, width, depth, heads, kwargs)


def _own_name(base: Architecture) -> str:
    """Return the name of the one of `ARCHITECTURES` that differs in details alone, else the name itself."""
    sizes = base.timm_model, base.width, base.depth
    own = (one.name for one in ARCHITECTURES.values() if (one.timm_model, one.width, one.depth) == sizes)
    return next(own, base.name)


def _suffixed(name: str, patch: int, registers: int) -> str:
    suffixes = [f"patch{patch}"] if patch != ARCHITECTURES["vit_tiny"].patch else []
    return "_".join([name, *suffixes, *([f"reg{registers}"] if registers else [])])


def _ratio(hidden: int, width: int) -> float:
    """Return the ratio that timm multiplies with the width, and cuts to a whole number, to get `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _heads(base: Architecture, metadata: CheckpointMetadata, origin: str, file: Path) -> int:
    """Return the number of heads, which weights do not determine.

    Raises:
        ValueError: It does not divide the width.
    """
    default = MOCO_HEADS if origin == "mocov3" and base.width % MOCO_HEADS == 0 else base.heads
    heads = default if metadata.heads is None else metadata.heads
    if heads < 1 or base.width % heads:
        raise ValueError(f"{heads} heads do not divide the width of {file}, {base.width}; give another number of heads")
    return heads
