"""Heads of GTSA: projector, predictor and rotation predictor.

Shapes: N views, D encoder channels, C projector channels, h x w patches.
"""

from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


class ConvBlock(nn.Module):
    """3x3 convolution, LayerNorm over channels without affine parameters, GELU, and optionally a residual."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.residual = residual

    def forward(self, maps: Tensor) -> Tensor:
        """Transform maps (N, C, h, w) to maps of the same shape."""
        y = self.conv(maps).movedim(1, -1)  # (N, h, w, C)
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=NORM_EPS)).movedim(-1, 1)  # (N, C, h, w)
        return maps + y if self.residual else y


class Projector(nn.Sequential):
    """Projector of student and teacher, (N, D, h, w) to (N, C, h, w): two residual blocks, then a 1x1 convolution."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(ConvBlock(width, True), ConvBlock(width, True), nn.Conv2d(width, out_channels, 1))


class Predictor(nn.Sequential):
    """Predictor of the student, (N, C, h, w) to (N, C, h, w): one block without residual, then a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(ConvBlock(channels, False), nn.Conv2d(channels, channels, 1))


class RotationPredictor(nn.Sequential):
    """Classifier of the student, (N, D) to (N, 4): logits of rot90 k from the mean of the encoder's patch tokens."""

    def __init__(self, width: int) -> None:
        super().__init__(
            *(nn.Linear(width, 768), nn.LayerNorm(768), nn.GELU()),
            *(nn.Linear(768, 768), nn.LayerNorm(768), nn.GELU()),
            *(nn.Linear(768, 128), nn.LayerNorm(128), nn.Linear(128, 4)),
        )
