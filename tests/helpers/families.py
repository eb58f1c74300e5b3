"""Small ViTs of every family that the importer takes, built by timm."""

from functools import partial
from typing import Any

import timm
import torch
from torch import nn

WIDTH, DEPTH, HEADS = 64, 2, 2
SMALL = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "DINOv2": ("vit_small_patch14_dinov2", {"img_size": 70}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 70}),
    "DINOv3": ("vit_small_patch16_dinov3", {}),
    "DINOv3 with SwiGLU": ("vit_small_plus_patch16_dinov3", {}),
    "EVA02": ("eva02_small_patch14_224", {"img_size": 70}),
    "SigLIP": ("vit_base_patch16_siglip_224", {"img_size": 80}),
    "CLIP": ("vit_base_patch32_clip_quickgelu_224", {"img_size": 96}),
    "DeiT3": ("deit3_small_patch16_224", {"img_size": 80}),
    "patches of 8": ("vit_small_patch8_224", {"img_size": 40}),
    "a grid of 3 x 5": ("vit_small_patch16_224", {"img_size": (48, 80)}),
    "norms of queries and keys": ("vit_base_patch16_224", {"img_size": 80, "qk_norm": True}),
}
"""Name of a model of timm and its further arguments, by family."""


def vary(model: Any) -> Any:
    """Give a model values of real variance; initial biases, norms and positions would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (0.3 if parameter.ndim < 2 else 0.1) * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def timm_vit(family: str, **kwargs: Any) -> Any:
    """A small model of a family, in evaluation mode, with random weights of realistic variance."""
    name, arguments = FAMILIES[family]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **{**SMALL, **arguments, **kwargs}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def timm_features(model: Any, family: str, images: torch.Tensor) -> torch.Tensor:
    """Patch tokens (B, N, D) after the final norm by timm, for images of any size."""
    # A model for other sizes is another model: timm's own way is the flag dynamic_img_size.
    norm = model.norm if not isinstance(model.norm, nn.Identity) else model.fc_norm
    dynamic = timm_vit(family, dynamic_img_size=True, norm_layer=partial(nn.LayerNorm, eps=norm.eps))
    dynamic.load_state_dict(model.state_dict())
    tokens: torch.Tensor = dynamic.fc_norm(dynamic.forward_features(images))
    return tokens[:, dynamic.num_prefix_tokens :]
