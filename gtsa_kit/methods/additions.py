"""Terms beside the losses of GTSA that are not in the paper: against collapse, and on whole images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtsa_kit.methods.base import world_size
from gtsa_kit.methods.region_pairs import promote_to_float32

EPS = 1e-4
"""Added to variances, so that the gradient of their root is finite; VICReg's value."""


class TargetCenter(nn.Module):
    """Moving average of the teacher's patches over steps and processes, (C,), subtracted from them."""

    mean: Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, targets: Tensor) -> Tensor:
        """Subtract the average from maps (B, G, C, h, w), which then enter it."""
        targets = promote_to_float32(targets)
        centered = targets - self.mean.to(targets.dtype)[:, None, None]
        batch_mean = targets.mean((0, 1, 3, 4))
        if (processes := world_size()) > 1:
            torch.distributed.all_reduce(batch_mean)
            batch_mean /= processes
        self.mean.lerp_(batch_mean.to(self.mean.dtype), 1 - self.momentum)
        return centered


def variance_covariance(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return VICReg's terms (arXiv 2105.04906) over all patches of this process.

    Args:
        maps: Student's projected maps, (B, V, C, h, w).

    Returns:
        The mean over channels of max(0, 1 - standard deviation), and the sum of the squared covariances of two
        different channels, divided by C.
    """
    tokens = promote_to_float32(maps).movedim(2, -1).flatten(0, 3)  # (N, C)
    tokens = tokens - tokens.mean(0)
    patches, channels = tokens.shape
    covariance = tokens.T @ tokens / max(patches - 1, 1)
    variance = covariance.diagonal()
    hinge = F.relu(1 - (variance + EPS).sqrt()).mean()
    return hinge, (covariance.square().sum() - variance.square().sum()) / channels
