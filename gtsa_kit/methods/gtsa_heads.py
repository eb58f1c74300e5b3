"""Projector, predictor, rotation predictor."""

from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


class ConvBlock(nn.Module):
    """3x3 convolution, LayerNorm over channels without affine, GELU; with a residual where asked."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.residual = residual

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) both ways."""
        y = self.conv(maps).movedim(1, -1)
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=NORM_EPS)).movedim(-1, 1)
        return maps + y if self.residual else y


class Projector(nn.Sequential):
    """Two residual blocks at the encoder's width, then 1x1 to `out_channels`: (B, D, h, w) to (B, C, h, w)."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(ConvBlock(width, True), ConvBlock(width, True), nn.Conv2d(width, out_channels, 1))


class Predictor(nn.Sequential):
    """One block without residual, then 1x1, student only: (B, C, h, w) both ways."""

    def __init__(self, channels: int) -> None:
        super().__init__(ConvBlock(channels, False), nn.Conv2d(channels, channels, 1))


class RotationPredictor(nn.Sequential):
    """Mean of patch tokens (B, D) to logits (B, 4) over the quarter turns that the view was given."""

    def __init__(self, width: int) -> None:
        super().__init__(
            *(nn.Linear(width, 768), nn.LayerNorm(768), nn.GELU()),
            *(nn.Linear(768, 768), nn.LayerNorm(768), nn.GELU()),
            *(nn.Linear(768, 128), nn.LayerNorm(128), nn.Linear(128, 4)),
        )
