"""Resampling of position embeddings to a grid of any size."""

from typing import Any, Final, get_args

import torch
from torch import Tensor

from gtsa_kit.config import Positions
from gtsa_kit.geometry import cubic
from gtsa_kit.models.architecture import RESAMPLINGS

POSITIONS: Final = dict(zip(get_args(Positions), RESAMPLINGS, strict=True))
"""`RESAMPLINGS` by the words for them in options."""
TAPS: Final = 2
"""Positions on each side of a point that the bicubic kernel reads."""


def split_positions(vit: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the learned position embeddings (P, D) of the prefix tokens and (gh*gw, D) of the patches of a timm ViT.

    Either is None if the ViT has none.
    """
    if vit.pos_embed is None:
        return None, None
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    return (vit.pos_embed[0, :prefix] if prefix else None), vit.pos_embed[0, prefix:]


def resample_positions(
    positions: Tensor, grid: tuple[int, int], height: int, width: int, method: str = RESAMPLINGS[0]
) -> Tensor:
    """Resample position embeddings (gh * gw, D) of a grid (gh, gw) to (height * width, D).

    The interpolation is separable. At the grid's own size the result is exactly the input.

    Args:
        positions: Position embeddings of the patches, row by row.
        grid: Rows and columns of `positions`.
        height: Rows of the result; symbolic in a traced graph.
        width: Columns of the result; symbolic in a traced graph.
        method: One of `RESAMPLINGS`.
    """
    (rows, columns), dim = grid, positions.shape[-1]
    offset: Tensor | None = None
    if method == "bicubic, offset 0.1":
        # The original code returns the stored embeddings if the size is that of their grid.
        sizes = [
            (torch.zeros(1, device=positions.device) + size) != own for size, own in ((height, rows), (width, columns))
        ]
        offset = 0.1 * (sizes[0] | sizes[1]).float()
    down = resample_weights(height, rows, positions, method, offset) @ positions.reshape(rows, columns * dim)
    across = resample_weights(width, columns, positions, method, offset) @ down.reshape(-1, columns, dim)
    return across.reshape(-1, dim)


def resample_weights(
    target: int, source: int, like: Tensor, method: str = RESAMPLINGS[0], offset: Tensor | None = None
) -> Tensor:
    """Return bicubic interpolation weights (target, source) on the device of `like`.

    Only tensor arithmetic is used, because `target` is symbolic in a traced graph.
    """
    length = torch.full((1,), source, dtype=torch.float32, device=like.device)
    step = length / target if offset is None else length / (target + offset)  # source positions per target position
    centers = (torch.arange(target, dtype=torch.float32, device=like.device) + 0.5) * step
    if method == RESAMPLINGS[0]:
        source_centers = torch.arange(source, dtype=torch.float32, device=like.device) + 0.5
        weights = cubic(((source_centers[None, :] - centers[:, None]) / step.clamp(min=1)).abs())
        return weights / weights.sum(dim=1, keepdim=True)
    extended = torch.arange(-TAPS, source + TAPS, dtype=torch.float32, device=like.device) + 0.5
    weights = cubic((extended[None, :] - centers[:, None]).abs(), a=-0.75)
    return weights @ _edge_fold(source).to(like.device)


def _edge_fold(source: int) -> Tensor:
    """Return the matrix (source + 4, source) that adds the weights beyond the edges to those at the edges."""
    nearest = torch.arange(-TAPS, source + TAPS).clamp(0, source - 1)
    return torch.nn.functional.one_hot(nearest, source).float()
