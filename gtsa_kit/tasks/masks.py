"""Masks from logits: the one way from a model's logits to the class of each pixel of an image.

Prediction, the service and the scores of artifacts call these functions, so that their masks are the same.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BAND_BYTES: Final = 64 << 20
"""Memory of the resized logits that exist at one time."""


def class_numbers(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel of an image: logits are resized (bilinear), then the largest one counts.

    Args:
        logits: (K, h, w) float32, for an input that shows the whole image.
        size: (height, width) of the image.

    Returns:
        (height, width) uint8 class numbers.
    """
    mask = np.empty(size, np.uint8)
    for first, last, band in resized_bands(logits, size):
        mask[first:last] = band.argmax(0).numpy()
    return mask


def class_probabilities(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the probabilities (K, height, width), float16, of the classes of each pixel of an image.

    Args:
        logits: (K, h, w) float32, for an input that shows the whole image.
        size: (height, width) of the image.
    """
    probabilities = np.empty((len(logits), *size), np.float16)
    for first, last, band in resized_bands(logits, size):
        probabilities[:, first:last] = band.softmax(0).numpy()
    return probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (K,) float32 of logits (K,)."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(powers / powers.sum(), np.float32)


def resized_bands(logits: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[int, int, "Tensor"]]:
    """Yield (first row, row after the last, logits (K, rows, width)) of logits that are resized to a size.

    Together the bands equal `F.interpolate(..., mode="bilinear", align_corners=False)` up to rounding.
    """
    import torch

    height, width = size
    rows = max(1, BAND_BYTES // (4 * len(logits) * width))
    source = torch.from_numpy(np.ascontiguousarray(logits, np.float32))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        yield first, last, _resized_rows(source, size, first, last)


def _resized_rows(logits: "Tensor", size: tuple[int, int], first: int, last: int) -> "Tensor":
    """Return the rows [first, last) of resized logits: rows are mixed here, columns by torch."""
    import torch
    import torch.nn.functional as F

    height, (h, w) = size[0], logits.shape[1:]
    if height == h:
        mixed = logits[:, first:last]
    else:
        centers = ((torch.arange(first, last) + 0.5) * (h / height) - 0.5).clamp(min=0)
        upper = centers.long().clamp(max=h - 1)
        fraction = (centers - upper)[None, :, None]
        lower = (upper + 1).clamp(max=h - 1)
        mixed = logits[:, upper] * (1 - fraction) + logits[:, lower] * fraction
    if size[1] == w:
        return mixed
    return F.interpolate(mixed[None], (last - first, size[1]), mode="bilinear", align_corners=False)[0]
