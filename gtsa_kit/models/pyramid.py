"""Feature pyramid: maps of one stride to maps of four, and the top-down path that joins them."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.models.task_spec import LEVELS


class StridedPyramid(nn.Module):
    """Four maps at a stride of one patch to strides of a quarter, a half, one and two patches, finest first."""

    def __init__(self, width: int) -> None:
        """Build the layers for maps of `width` channels."""
        super().__init__()
        quarter = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        half = nn.ConvTranspose2d(width, width, 2, 2)
        # A repeated last row and column keep a map that is one patch high or wide, and change no maximum. torch.export
        # has no ceil_mode for every size.
        two = nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 2))
        self.levels = nn.ModuleList([quarter, half, nn.Identity(), two])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map four (B, D, h, w) to (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w) and (B, D, ceil(h/2), ceil(w/2))."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


class TopDown(nn.Module):
    """Feature pyramid network (Lin et al., arXiv 1612.03144): every level receives those that are coarser."""

    def __init__(self, width: int, channels: int, levels: int = LEVELS, flat: bool = False) -> None:
        """Build the layers for `levels` maps of `width` channels; outputs have `channels`.

        With `flat`, all maps have one size.
        """
        super().__init__()
        self.flat = flat
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for _ in range(levels))
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map (B, D, h_i, w_i), finest first, to (B, C, h_i, w_i)."""
        joined = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(joined) - 1, 0, -1):
            coarser = joined[i] if self.flat else resize(joined[i], joined[i - 1], "nearest")
            joined[i - 1] = joined[i - 1] + coarser
        return [output(x) for output, x in zip(self.output, joined, strict=True)]


def resize(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    """Resize a map (B, C, h, w) to the height and width of another, without antialiasing, which TensorRT refuses.

    Sizes are not compared: a graph that is exported for any size would keep the result for the one that it was traced
    with.
    """
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=False if mode == "bilinear" else None)
