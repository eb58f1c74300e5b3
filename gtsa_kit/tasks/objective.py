"""Losses of tasks: cross-entropy of pixels that are not void, and of images, also with mixed labels; targets."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gtsa_kit.data.label_map import VOID


class Targets:
    """Objects of each image of a batch, in float32 in every precision of a run.

    Fabric converts the tensors of lists and dictionaries to the precision of the run, with several processes. Boxes in
    bfloat16 would be off by pixels, so this class is neither.
    """

    def __init__(self, images: Sequence[Mapping[str, Tensor]]) -> None:
        self._images = images

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """Iterate over the images."""
        return iter(self._images)


def pixel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of the pixels that are not void, 0 if all are.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) integers, `VOID` where a pixel has no class.
        weights: (K,) weights of the classes; the mean is weighted by them.
    """
    labels = labels.long()
    total = F.cross_entropy(logits.float(), labels, weights, ignore_index=VOID, reduction="sum")
    kept = labels != VOID
    # Without indexing by a mask, which makes the host wait for an accelerator.
    count = kept.sum() if weights is None else (weights[torch.where(kept, labels, 0)] * kept).sum()
    return total / count.clamp(min=1e-6)


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of images.

    Args:
        logits: (B, K).
        labels: (B,) class numbers, or (B, K) shares of mixed images.
        weights: (K,) weights of the classes.
        smoothing: Label smoothing, 0 to 1; shares of mixed images hold it already.
    """
    if labels.ndim == 2:
        return F.cross_entropy(logits.float(), labels.float(), weights)
    return F.cross_entropy(logits.float(), labels.long(), weights, label_smoothing=smoothing)
