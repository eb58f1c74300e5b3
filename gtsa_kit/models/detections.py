"""Result of a detector; it needs no torchvision, which the detector itself does."""

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """Detections of a batch, the highest score first; N slots an image, and those that are not used are zero."""

    boxes: Tensor
    """Corners x0, y0, x1, y1 in pixels of the input, (B, N, 4) float32."""
    scores: Tensor
    """Probability of the class, (B, N) float32; 0 in a slot that is not used."""
    labels: Tensor
    """Class number, (B, N) int32; the background is no class."""
    masks: Tensor | None
    """Probability that a part of the box belongs to the object, (B, N, 28, 28) float32; None for boxes alone."""
