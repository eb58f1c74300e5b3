"""Heads of task models: feature maps or embeddings of an encoder to logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gtsa_kit.models.pyramid import StridedPyramid, TopDown, resize
from gtsa_kit.models.task_spec import LEVELS, Pyramid

NECK_CHANNELS = 256
"""Channels of the feature pyramid network."""


class LinearHead(nn.Module):
    """One 1x1 convolution on the concatenated maps: (B, D, h, w) each to logits (B, K, h, w)."""

    def __init__(self, width: int, classes: int, maps: int = 1) -> None:
        """Build the layer for `maps` maps of `width` channels."""
        super().__init__()
        self.classifier = nn.Conv2d(maps * width, classes, 1)

    def forward(self, *maps: Tensor) -> Tensor:
        """Compute logits at the maps' resolution."""
        return self.classifier(torch.cat(maps, dim=1))  # type: ignore[no-any-return]


class FpnHead(nn.Module):
    """Semantic FPN (Kirillov et al., arXiv 1901.02446) on four maps (B, D, h, w) of a ViT.

    With the pyramid "flat" all levels keep the stride of a patch, and logits are (B, K, h, w). With "strided" they have
    strides of a quarter to two patches, and logits are (B, K, 4h, 4w).
    """

    def __init__(self, width: int, classes: int, pyramid: Pyramid, channels: int, dropout: float) -> None:
        """Build the layers; `channels` are those of the sum before the classifier."""
        super().__init__()
        self.pyramid = StridedPyramid(width) if pyramid == "strided" else None
        self.top_down = TopDown(width, NECK_CHANNELS, flat=pyramid == "flat")
        steps = range(LEVELS) if pyramid == "strided" else [0] * LEVELS  # doublings of each level to the finest
        self.scales = nn.ModuleList(Scale(channels, doublings) for doublings in steps)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, *maps: Tensor) -> Tensor:
        """Compute logits at the resolution of the finest level."""
        levels = self.top_down(maps if self.pyramid is None else self.pyramid(maps))
        total = self.scales[0](levels, 0)
        for i in range(1, LEVELS):
            total = total + self.scales[i](levels, i)
        return self.classifier(self.dropout(total))  # type: ignore[no-any-return]


class Scale(nn.Module):
    """Convolutions on one level, each followed by resizing to the next finer level; one convolution on the finest."""

    def __init__(self, channels: int, doublings: int) -> None:
        """Build the convolutions, (B, C', h, w) to (B, `channels`, h, w)."""
        super().__init__()
        self.doublings = doublings
        self.blocks = nn.ModuleList(
            _conv_block(channels if i else NECK_CHANNELS, channels) for i in range(max(1, doublings))
        )

    def forward(self, levels: Sequence[Tensor], index: int) -> Tensor:
        """Map the level `index` to the size of the finest one, the first."""
        x = levels[index]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < self.doublings:
                x = resize(x, levels[index - 1 - i])
        return x


class ClassHead(nn.Module):
    """LayerNorm and one linear layer on the embedding: (B, D) to logits (B, K)."""

    def __init__(self, width: int, classes: int) -> None:
        """Build the layers; the classifier starts near zero, as in the fine-tuning protocol of MAE and SelfPatch."""
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=2e-5)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """Compute logits."""
        return self.classifier(self.norm(embedding))  # type: ignore[no-any-return]


def _conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
