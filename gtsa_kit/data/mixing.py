"""Mixup and CutMix of batches, with label smoothing, by timm."""

from typing import Any

import torch
from torch import Tensor

from gtsa_kit.data.samples import MIX, derive_seed, seeded


class BatchMixer:
    """Function from a batch with class numbers to a mixed batch with shares of the classes."""

    def __init__(self, classes: int, mixup: float = 0.8, cutmix: float = 1.0, smoothing: float = 0.1, seed: int = 0):
        """Set the strengths.

        Args:
            classes: Number of classes K.
            mixup: Parameter of the beta distribution of Mixup; 0 is none.
            cutmix: Parameter of the beta distribution of CutMix; 0 is none. With both, each has every second batch.
            smoothing: Share of the target that is spread over all classes, 0 to 1.
            seed: Seed of the run.
        """
        self._classes, self._smoothing, self._seed = classes, smoothing, seed
        self._mixup: Any = None
        if mixup > 0 or cutmix > 0:
            from timm.data.mixup import Mixup  # takes seconds, and most runs do not mix

            self._mixup = Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=classes)

    def __call__(self, images: Tensor, labels: Tensor, *counters: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: Normalized (B, 3, H, W) float; changed in place. Of an odd number, the last one stays as it is.
            labels: Class numbers (B,) int64.
            counters: Step, micro-step and rank, or whatever tells batches apart: the same counters mix in the same way.

        Returns:
            Images (B, 3, H, W), and targets (B, K) float32 whose rows have the sum 1.
        """
        share = self._smoothing / self._classes
        targets = torch.full((len(labels), self._classes), share, device=labels.device)
        targets.scatter_(1, labels[:, None], 1 - self._smoothing + share)
        even = len(images) // 2 * 2  # timm mixes pairs
        if self._mixup and even:
            with seeded(derive_seed(self._seed, MIX, *counters)):
                targets[:even] = self._mixup(images[:even], labels[:even])[1]
        return images, targets
