"""Resampling of position embeddings to a grid of any size."""

import torch
from torch import Tensor

from gtsa_kit.geometry import cubic


def resample_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Resample position embeddings (S*S, D) of a square grid to (height * width, D).

    The interpolation is separable antialiased bicubic (a = -0.5), equal to `torch.nn.functional.interpolate` with
    antialiasing. At S x S the result is exactly the input.
    """
    dim = positions.shape[-1]
    side = int(positions.shape[0] ** 0.5)
    rows = resample_weights(height, side, positions) @ positions.reshape(side, side * dim)  # (h, S * D)
    grid = resample_weights(width, side, positions) @ rows.reshape(-1, side, dim)  # (h, w, D)
    return grid.reshape(-1, dim)


def resample_weights(target: int, source: int, like: Tensor) -> Tensor:
    """Return bicubic interpolation weights (target, source) on the device of `like`.

    Only tensor arithmetic is used, because `target` is symbolic in a traced graph.
    """
    # Source positions per target position.
    step = torch.full((1,), source, dtype=torch.float32, device=like.device) / target
    target_centers = (torch.arange(target, dtype=torch.float32, device=like.device) + 0.5) * step
    source_centers = torch.arange(source, dtype=torch.float32, device=like.device) + 0.5
    weights = cubic(((source_centers[None, :] - target_centers[:, None]) / step.clamp(min=1)).abs())
    return weights / weights.sum(dim=1, keepdim=True)
