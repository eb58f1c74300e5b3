"""Mixup and CutMix of batches, with label smoothing, by timm."""

import torch
from timm.data.mixup import Mixup, mixup_target
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
        mixes = mixup > 0 or cutmix > 0
        self._mixup = Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=classes) if mixes else None

    def __call__(self, images: Tensor, labels: Tensor, *counters: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: Normalized (B, 3, H, W) float; changed in place. Of an odd number, the last one stays as it is.
            labels: Class numbers (B,) int64.
            counters: Step, micro-step and rank, or whatever tells batches apart: the same counters mix in the same way.

        Returns:
            Images (B, 3, H, W), and targets (B, K) float32 whose rows have the sum 1.
        """
        targets: Tensor = mixup_target(labels, self._classes, 1.0, self._smoothing)
        even = len(images) // 2 * 2  # timm mixes pairs
        if self._mixup and even:
            with seeded(derive_seed(self._seed, MIX, *counters)):
                targets[:even] = self._mixup(images[:even], labels[:even])[1]
        return images, targets.to(torch.float32)
