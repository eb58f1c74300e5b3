"""Conversion of weights to another patch size, for use as a plain ViT: `to_patch`.

LayerScale is folded into the projections, which changes no feature. Position embeddings are resampled, and the patch
kernel is resized by the pseudo-inverse (FlexiViT, arXiv 2212.08013), which keeps features as well as it can.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from gtsa_kit.config import PATCH as DEFAULT_PATCH
from gtsa_kit.models.architecture import RESAMPLINGS, Architecture
from gtsa_kit.models.positions import resample_positions

StateDict = dict[str, Tensor]
BASE_SIDE: Final = 224
"""Side of the images, in pixels, whose grid the converted position embeddings are stored for."""
SCALED_LAYERS: Final = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}
"""Layer of a block that each LayerScale follows, by the keys of timm's VisionTransformer. Its class Eva, for rotary
positions, names them otherwise and keeps them: such an encoder is no plain ViT with or without them."""


def to_patch(
    weights: Mapping[str, Tensor], architecture: Architecture, patch: int
) -> tuple[dict[str, Tensor], Architecture]:
    """Convert weights to another patch size, without LayerScale.

    The stored grid of positions becomes that of images of 224 pixels: 14 x 14 for patches of 16, as plain ViTs have it.
    It is resampled as the source does it; the result resamples as timm does. The size of the source's preprocessing is
    to be replaced by `BASE_SIDE`.

    Args:
        weights: Tensors by timm's keys; they are not modified.
        architecture: Their architecture.
        patch: Side of the new patches in pixels.

    Returns:
        The new weights, float32, and their architecture.

    Raises:
        ValueError: Images of 224 pixels have no whole number of such patches.
    """
    if patch < 1 or BASE_SIDE % patch:
        fitting = [str(side) for side in range(4, 33) if BASE_SIDE % side == 0]
        raise ValueError(f"patches of {patch} pixels do not divide {BASE_SIDE}; choose one of {', '.join(fitting)}")
    converted = fold_layer_scale(weights)
    kernel = "patch_embed.proj.weight"
    converted[kernel] = resize_patch_kernel(converted[kernel], patch)
    if "pos_embed" in converted:
        converted["pos_embed"] = _resample_grid(converted["pos_embed"], architecture, BASE_SIDE // patch)
    return converted, _converted_architecture(architecture, patch)


def fold_layer_scale(weights: Mapping[str, Tensor]) -> StateDict:
    """Multiply every LayerScale into weight and bias of the layer before it; the features stay the same."""
    folded = {name: tensor.float() for name, tensor in weights.items()}
    for name in [name for name in folded if name.endswith(tuple(SCALED_LAYERS))]:
        block, scale = ".".join(name.split(".")[:2]), ".".join(name.split(".")[2:])
        gamma, layer = folded.pop(name), f"{block}.{SCALED_LAYERS[scale]}"
        folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * gamma[:, None]
        if f"{layer}.bias" in folded:
            folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * gamma
    return folded


def resize_patch_kernel(kernel: Tensor, patch: int) -> Tensor:
    """Resize a patch kernel (D, C, p, p) to (D, C, patch, patch).

    For a patch x and its resized version Bx, the new kernel w' has the products <w', Bx> nearest to <w, x> in the mean
    square over all x; they are equal where patches grow, since B then loses nothing.
    """
    side = kernel.shape[-1]
    if side == patch:
        return kernel
    one_by_one = torch.eye(side, dtype=torch.float64)[None, None]
    axis = F.interpolate(one_by_one, size=(patch, side), mode="bicubic", antialias=True)[0, 0]  # (patch, p)
    resize = torch.kron(axis, axis)  # B, (patch * patch, p * p)
    values: Tensor = kernel.double().flatten(2) @ torch.linalg.pinv(resize)  # <w', Bx> = w pinv(B) B x
    return values.reshape(*kernel.shape[:2], patch, patch).float()


def _resample_grid(positions: Tensor, architecture: Architecture, side: int) -> Tensor:
    """Resample the patches' part of position embeddings (1, prefix + gh*gw, D) to (1, prefix + side*side, D)."""
    size = architecture.timm_kwargs.get("img_size", BASE_SIDE)
    height, width = (size, size) if isinstance(size, int) else size
    grid = height // architecture.patch, width // architecture.patch
    prefix = positions.shape[1] - grid[0] * grid[1]
    patches = resample_positions(positions[0, prefix:], grid, side, side, architecture.resampling)
    return torch.cat([positions[:, :prefix], patches[None]], dim=1)


def without_layer_scale(architecture: Architecture) -> Architecture:
    """Return the architecture of weights from `fold_layer_scale`."""
    if architecture.is_eva:
        return architecture
    # None would be timm's default of the model, which may have LayerScale.
    return replace(architecture, timm_kwargs={**architecture.timm_kwargs, "init_values": 0.0})


def _converted_architecture(architecture: Architecture, patch: int) -> Architecture:
    """Return the architecture with another patch size, positions for images of 224 pixels, and no LayerScale."""
    kwargs = {**without_layer_scale(architecture).timm_kwargs, "patch_size": patch, "img_size": BASE_SIDE}
    if architecture.timm_model.endswith(f"_patch{patch}_{BASE_SIDE}"):  # timm's own values are these
        kwargs = {name: kwargs[name] for name in kwargs if name not in ("patch_size", "img_size", "init_values")}
    name = architecture.name.replace(f"_patch{architecture.patch}", "" if patch == DEFAULT_PATCH else f"_patch{patch}")
    return replace(architecture, name=name, timm_kwargs=kwargs, resampling=RESAMPLINGS[0])
