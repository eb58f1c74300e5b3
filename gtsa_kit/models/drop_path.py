"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth per sample, independent of how a batch is split over processes.

    Every process draws random numbers for the whole batch from the same seed and uses those of its own samples, so
    that N processes train as one process with N times the batch.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero samples of x (B, ...) with probability `rate` and scale the others; return x in evaluation mode."""
        if not self.training:
            return x
        parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if parallel else (0, 1)
        rows = x.shape[0]
        keep = torch.rand(world * rows, device=x.device)[rank * rows : (rank + 1) * rows] >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
