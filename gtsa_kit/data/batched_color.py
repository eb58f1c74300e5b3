"""Color jitter, grayscale and blur of many views at once on any device, by the arithmetic of `color`.

Views are (N, 3, S, S) float32 with whole numbers, 0 to 255. Factors and sigmas are (N,) float64, one per view.
"""

from functools import lru_cache

import torch
from torch import Tensor

from gtsa_kit.data.color import hue_table

_LUMA = 19595 / 65536, 38470 / 65536, 7471 / 65536
_CENTERS = 765, 510, 1020


def adjust_brightness(views: Tensor, factors: Tensor) -> Tensor:
    """Multiply all values by a factor."""
    return _truncate(views * _per_view(factors))


def adjust_contrast(views: Tensor, factors: Tensor) -> Tensor:
    """Multiply the differences from the mean gray by a factor."""
    means = _gray(views).mean((-2, -1), keepdim=True, dtype=torch.float64)
    return _stretch(views, (means + 0.5).floor().float(), factors)


def adjust_saturation(views: Tensor, factors: Tensor) -> Tensor:
    """Multiply the differences from each pixel's gray by a factor."""
    return _stretch(views, _gray(views), factors)


def to_grayscale(views: Tensor) -> Tensor:
    """Return three equal channels of gray."""
    return _gray(views).expand_as(views)


def adjust_hue(views: Tensor, factors: Tensor) -> Tensor:
    """Shift the hue by a fraction of the circle, -0.5 to 0.5, in Pillow's 256 hues."""
    colors = views.int()
    red, green, blue = colors.unbind(1)
    top, low = colors.amax(1), colors.amin(1)
    chroma = top - low
    middle = (red + green + blue - low - 2 * top) & 255
    order = 4 * (red >= blue).int() + 2 * (green >= blue).int() + (red >= green).int()
    table, centers = _hues(views.device)
    hue = table[(order * 256 + chroma) * 256 + middle].int()
    position = 6 * ((hue + (factors * 255).int()[:, None, None]) & 255)
    hue_distance = (position[:, None] - centers[:, None, None]).abs()
    hue_distance = torch.cat([510 - hue_distance[:, :1], hue_distance[:, 1:] - 255], dim=1).clamp(0, 255)
    missing = hue_distance * chroma[:, None] + 128
    return (top[:, None] - ((missing + (missing >> 8)) >> 8)).float()


@lru_cache
def _hues(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the hue table (8 * 256 * 256,) uint8 and the centers of the channels (3,) int32, cached by device."""
    centers = torch.tensor(_CENTERS, dtype=torch.int32)
    return torch.from_numpy(hue_table()).to(device, non_blocking=True), centers.to(device, non_blocking=True)


def gaussian_blur(views: Tensor, sigmas: Tensor) -> Tensor:
    """Blur views by Pillow's approximate Gaussian: three box blurs, with border pixels repeated."""
    weights = torch.linalg.matrix_power(_one_pass(views.shape[-1], sigmas), 3).float()[:, None]  # (N, 1, S, S)
    blurred: Tensor = weights @ views @ weights.mT
    return blurred.add_(0.5).floor_().clamp_(0, 255)


def _one_pass(size: int, sigmas: Tensor) -> Tensor:
    """Return the weights (N, size, size) float64 of one box blur, with border pixels repeated."""
    variance = sigmas.double() ** 2 / 3
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    width = (2 * (whole + part) + 1)[:, None]
    whole, part = whole[:, None], part[:, None]
    index = torch.arange(size, device=sigmas.device)
    distance = (index[:, None] - index).abs()[None]
    middle, end = (1 / width)[..., None], (part / width)[..., None]
    box = torch.where(distance <= whole[..., None], middle, torch.where(distance == whole[..., None] + 1, end, 0.0))
    # Weights of the box beyond the left border are added to the border pixel; on the right likewise.
    beyond = ((whole - index).clamp(min=0) + part * (index < whole + 1)) / width  # (N, size)
    box[:, :, 0] += beyond
    box[:, :, -1] += beyond.flip(-1)
    return box


def _stretch(views: Tensor, middle: Tensor, factors: Tensor) -> Tensor:
    return _truncate((views - middle) * _per_view(factors) + middle)


def _truncate(values: Tensor) -> Tensor:
    """Clip to 0..255 and truncate to whole numbers, as Pillow does, in place."""
    return values.clamp_(0, 255).trunc_()


def _gray(views: Tensor) -> Tensor:
    """Return the gray of views as whole numbers (N, 1, S, S)."""
    red, green, blue = (views[:, i : i + 1] * weight for i, weight in enumerate(_LUMA))
    return (red + green + blue + 0.5).floor()


def _per_view(factors: Tensor) -> Tensor:
    return factors.float()[:, None, None, None]
