"""Rotary position embeddings for a grid of any size, with the frequencies of a timm ViT."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class RotaryTable(nn.Module):
    """Table of sines and cosines for a grid of patches, as timm's blocks take it.

    timm computes the same table from a size that is known; here the size may be symbolic in a traced graph.
    """

    def __init__(self, rope: Any, periods: Sequence[float] = ()) -> None:
        """Copy the frequencies of timm's module of the types "dinov3" and "cat".

        Args:
            rope: The module.
            periods: Periods of the type "dinov3" that replace those of the module.

        Raises:
            ValueError: The module is of another type or has options that are not computed here.
        """
        from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, RotaryEmbeddingDinoV3

        super().__init__()
        centered = isinstance(rope, RotaryEmbeddingDinoV3)
        if not centered and not isinstance(rope, RotaryEmbeddingCat):
            raise ValueError(f"rotary positions of timm's type {type(rope).__name__} are not supported")
        options = (rope.grid_indexing, rope.grid_offset)
        if options != ("ij", 0) or (centered and rope.normalize_coords != "separate"):
            raise ValueError(f"rotary positions with grid indexing and offset {options} are not supported")
        if not centered and rope.in_pixels:
            raise ValueError("rotary positions in pixels are not supported")
        self.centered, self.by_halves = centered, bool(rope.rotate_half)
        self.reference: tuple[int, int] | None = None if centered else rope.ref_feat_shape
        self.frequencies: Tensor
        frequencies = 2 * math.pi / (torch.tensor(periods) if periods else rope.periods) if centered else rope.bands
        self.register_buffer("frequencies", frequencies.detach().clone().float(), persistent=False)

    def forward(self, height: int, width: int) -> Tensor:
        """Return (height * width, 2 * head_dim): sines, then cosines, of every patch."""
        reference = self.reference or (None, None)
        rows = self._coordinates(height, reference[0])[:, None, None] * self.frequencies
        columns = self._coordinates(width, reference[1])[None, :, None] * self.frequencies
        length = self.frequencies.shape[0]
        angles = torch.cat([rows.expand(height, width, length), columns.expand(height, width, length)], dim=-1)
        angles = angles.reshape(-1, 2 * length)  # (h*w, head_dim / 2)
        table = [self._spread(angles.sin()), self._spread(angles.cos())]
        return torch.cat(table, dim=-1)

    def _coordinates(self, size: int, reference: int | None) -> Tensor:
        """Return the coordinates of `size` rows or columns."""
        index = torch.arange(size, dtype=torch.float32, device=self.frequencies.device)
        if self.centered:
            return (index + 0.5) / size * 2 - 1
        return index if reference is None else index / size * reference

    def _spread(self, values: Tensor) -> Tensor:
        """Repeat values (N, head_dim / 2) for both channels that are rotated together."""
        if self.by_halves:
            return torch.cat([values, values], dim=-1)
        return torch.stack([values, values], dim=-1).flatten(-2)


def rotate(x: Tensor, sines: Tensor, cosines: Tensor, by_halves: bool) -> Tensor:
    """Rotate the channels of x (..., N, head_dim) by the angles of a table, (N, head_dim) each.

    Args:
        x: Queries or keys.
        sines: Sines of the angles.
        cosines: Cosines of the angles.
        by_halves: Whether channel i is rotated with channel i + head_dim / 2, and not with its neighbor.
    """
    if by_halves:
        first, second = x.chunk(2, dim=-1)
        orthogonal = torch.cat([-second, first], dim=-1)
    else:
        orthogonal = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cosines + orthogonal * sines
