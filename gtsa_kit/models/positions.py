"""Position embeddings, resampled to a grid of any size."""

import torch
from torch import Tensor

from gtsa_kit.geometry import cubic


def resample_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """(S*S, D) embeddings on a square grid, resampled to (height * width, D).

    Separable antialiased bicubic (a = -0.5), the values of torch's own antialiased resize; at S x S exactly the input.
    """
    width_of_token = positions.shape[-1]
    side = int(positions.shape[0] ** 0.5)
    rows = resample_weights(height, side, positions) @ positions.reshape(side, side * width_of_token)
    grid = resample_weights(width, side, positions) @ rows.reshape(-1, side, width_of_token)  # (h, w, D)
    return grid.reshape(-1, width_of_token)


def resample_weights(target: int, source: int, like: Tensor) -> Tensor:
    """(target, source) rows of bicubic weights. Tensor arithmetic throughout: `target` may be symbolic in a trace."""
    step = torch.full((1,), source, dtype=torch.float32, device=like.device) / target  # source cells a target cell
    centers = (torch.arange(target, dtype=torch.float32, device=like.device) + 0.5) * step
    cells = torch.arange(source, dtype=torch.float32, device=like.device) + 0.5
    weights = cubic(((cells[None, :] - centers[:, None]) / step.clamp(min=1)).abs())
    return weights / weights.sum(dim=1, keepdim=True)
