"""ViT (timm) to Features, at any size that is a multiple of the patch; how an image becomes its input, once.

Everything that an image meets before the network - size, interpolation, mean, standard deviation - stands here and
nowhere else; exported files carry it in their manifest.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gtsa_kit.config import PATCH, Arch
from gtsa_kit.models.positions import resample_positions

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
INTERPOLATIONS: Final = {
    "bicubic, antialiased": Image.Resampling.BICUBIC,
    "bilinear, antialiased": Image.Resampling.BILINEAR,
}
BASE_GRID: Final = 14
"""Side of the grid that position embeddings are stored for: 224 / 16."""


@dataclass(frozen=True)
class Architecture:
    """A ViT as timm builds it: `timm.create_model(timm_model, num_classes=0, **timm_kwargs)`, LayerNorm's eps aside."""

    name: str
    timm_model: str
    width: int
    depth: int
    heads: int
    timm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    norm_eps: float = 1e-6

    def to_dict(self) -> dict[str, Any]:
        """For manifests."""
        return asdict(self) | {"patch": PATCH}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "Architecture":
        """Out of a manifest."""
        return cls(**{name: said[name] for name in cls.__dataclass_fields__})


ARCHITECTURES: Final[Mapping[Arch, Architecture]] = {
    # For tests: the same graph in 0.2 million parameters.
    "vit_test": Architecture(
        "vit_test", "vit_tiny_patch16_224", 64, 2, 2, {"embed_dim": 64, "depth": 2, "num_heads": 2}
    ),
    # For studies on a few cores: half the depth of ViT-Ti.
    "vit_mini": Architecture("vit_mini", "vit_tiny_patch16_224", 192, 6, 3, {"depth": 6}),
    "vit_tiny": Architecture("vit_tiny", "vit_tiny_patch16_224", 192, 12, 3),
    "vit_small": Architecture("vit_small", "vit_small_patch16_224", 384, 12, 6),
    "vit_base": Architecture("vit_base", "vit_base_patch16_224", 768, 12, 12),
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input of the encoder: stretched to size x size, scaled to 0..1, normalized.

    Stretching keeps the whole scene, and a cell of the feature map stays a rectangle of the image.
    """

    size: int = 224
    resize: str = "stretch"
    interpolation: str = "bicubic, antialiased"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self) -> None:
        """Refuse what `resized` does not know."""
        if self.resize != "stretch" or self.interpolation not in INTERPOLATIONS:
            known = f"stretch with {' or '.join(INTERPOLATIONS)}"
            raise ValueError(f"preprocessing {self.resize!r}, {self.interpolation!r} is not known here, only {known}")

    def __call__(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """Upright RGB to (3, H, W) float32; `size` (height, width) in place of the square default."""
        pixels = self.resized(image, size).astype(np.float32) / 255
        normalized = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32)

    def resized(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """Upright RGB to (H, W, 3) uint8."""
        height, width = size or (self.size, self.size)
        return np.asarray(image.resize((width, height), INTERPOLATIONS[self.interpolation]))

    def to_dict(self) -> dict[str, Any]:
        """For manifests."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "Preprocessing":
        """Out of a manifest."""
        return cls(said["size"], said["resize"], said["interpolation"], tuple(said["mean"]), tuple(said["std"]))


class Features(NamedTuple):
    """What every backend returns; torch tensors from the encoder, numpy arrays from runners."""

    embedding: Any
    """(B, D): mean of the final-norm patch tokens."""
    feature_map: Any
    """(B, D, H/16, W/16): those tokens on their grid."""
    layers: Mapping[int, Any] = {}
    """(B, D, H/16, W/16) through the final norm, by the index of the block."""


class Encoder(nn.Module):
    """A timm ViT whose forward takes any (B, 3, H, W), H and W multiples of 16, and returns `Features`.

    Its weights live in `vit` under timm's own names. Position embeddings are resampled by two small matrix products
    rather than a Resize operator, so that one exported graph serves every size and builds in TensorRT.
    """

    def __init__(
        self,
        arch: Arch | Architecture,
        drop_path: float = 0.0,
        layers: tuple[int, ...] = (),
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """Random weights, as timm draws them.

        Args:
            arch: Of ours by name, or any ViT with patches of 16 and a class token (foreign weights).
            drop_path: Stochastic depth of the last block; the first has none.
            layers: Blocks whose maps are returned too, counted from 0.
            preprocessing: What the weights were trained with, if it is not ours.
        """
        super().__init__()
        self.architecture = arch if isinstance(arch, Architecture) else ARCHITECTURES[arch]
        self.preprocessing = preprocessing or Preprocessing()
        if any(not 0 <= layer < self.architecture.depth for layer in layers):
            raise ValueError(f"layers must lie between 0 and {self.architecture.depth - 1}, got {layers}")
        self.layers = layers
        self.activation_checkpointing = False
        """Whether training keeps the input of each block alone, and runs the block again for its gradient."""
        self.vit = create_vit(self.architecture, drop_path)
        for block in self.vit.blocks:  # timm leaves Identity where the rate is 0
            for name in ("drop_path1", "drop_path2"):
                rate = getattr(getattr(block, name), "drop_prob", 0.0)
                setattr(block, name, DropPath(rate) if rate else nn.Identity())

    def forward(self, images: Tensor, final_norm: bool = True) -> Features:
        """Encode (B, 3, H, W) float32, normalized.

        Args:
            images: H and W are multiples of 16.
            final_norm: False leaves out the final norm (the ADE20K preset's heads).
        """
        vit = self.vit
        patches = vit.patch_embed.proj(images)  # (B, D, h, w)
        h, w = patches.shape[-2:]
        class_position, positions = vit.pos_embed[:, :1], resample_positions(vit.pos_embed[0, 1:], h, w)
        tokens = patches.flatten(2).transpose(1, 2) + positions  # (B, h*w, D)
        class_token = (vit.cls_token + class_position).expand(images.shape[0], -1, -1)
        x = torch.cat([class_token, tokens], dim=1)
        maps = {}
        for index, block in enumerate(vit.blocks):
            x = (
                checkpoint(block, x, use_reentrant=False)
                if self.activation_checkpointing and self.training
                else block(x)
            )
            if index in self.layers:
                maps[index] = _on_grid(vit.norm(x), h, w)
        x = vit.norm(x) if final_norm else x
        return Features(x[:, 1:].mean(dim=1), _on_grid(x, h, w), maps)

    def use_unfused_attention(self) -> None:
        """Attend by two matrix products and a softmax in place of torch's fused kernel: the same features.

        For training in bf16 on a CPU, where the fused kernel takes three to ten times as long, most of it backwards.
        """
        for block in self.vit.blocks:
            block.attn.fused_attn = False


class DropPath(nn.Module):
    """Stochastic depth per sample, whose draws do not depend on how a batch is split over processes.

    Every process draws for the whole batch from the same seed and keeps the rows that are its own, so that N processes
    train exactly as one does with N times the batch.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) with whole samples zeroed at `rate`, the others scaled up; in evaluation, the input."""
        if not self.training:
            return x
        parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if parallel else (0, 1)
        rows = x.shape[0]
        keep = torch.rand(world * rows, device=x.device)[rank * rows : (rank + 1) * rows] >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def create_vit(architecture: Architecture, drop_path: float = 0.0) -> Any:
    """The timm model, with a class token and without a classifier."""
    return timm.create_model(
        architecture.timm_model,
        num_classes=0,
        drop_path_rate=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=architecture.norm_eps),
        **architecture.timm_kwargs,
    )


def normalize(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 to float32 as the encoder wants it."""
    mean, std = _mean_and_std(images.device)
    return (images.float() / 255 - mean) / std


@lru_cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each; made once, since a copy to an accelerator makes the host wait."""
    with torch.inference_mode(False):  # whoever asks first
        mean, std = torch.tensor([MEAN, STD], device=device)[..., None, None]
        return mean, std


def nearest_side(pixels: float) -> int:
    """The positive multiple of the patch that is nearest."""
    return max(1, round(pixels / PATCH)) * PATCH


def check_size(height: int, width: int) -> None:
    """Raise `ValueError` unless both are positive multiples of the patch."""
    if height <= 0 or width <= 0 or height % PATCH or width % PATCH:
        raise ValueError(
            f"height and width must be multiples of {PATCH}, got {height} x {width}; "
            f"nearest: {nearest_side(height)} x {nearest_side(width)}"
        )


def _on_grid(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, 1 + h*w, D) to (B, D, h, w), without the class token."""
    return tokens[:, 1:].transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
