"""Boxes, non-maximum suppression and RoIAlign of a detector with fixed numbers of boxes, in operators of any runtime.

No shape depends on the values of a tensor, and there is no NonZero, NonMaxSuppression or RoiAlign: TensorRT refuses
them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLES: Final = 2
"""Samples of RoIAlign along each side of a bin."""
CHUNK: Final = 3136
"""Number of bins of an image whose samples are read at once: a bin reads 16 vectors, which fill caches and memory."""


def level_anchors(bases: Tensor, rows: int, columns: int, stride: float) -> Tensor:
    """Return the anchors of a level, (rows * columns * A, 4) xyxy in input pixels.

    Args:
        bases: Anchors of one position, (A, 4), centered at 0.
        rows: Height of the level.
        columns: Width of the level.
        stride: Distance of two positions in input pixels.
    """
    x = (torch.arange(columns, device=bases.device) * stride).expand(rows, -1)
    y = (torch.arange(rows, device=bases.device) * stride)[:, None].expand(-1, columns)
    return (torch.stack([x, y, x, y], dim=-1)[:, :, None] + bases).reshape(-1, 4)


def decode_boxes(deltas: Tensor, boxes: Tensor, weights: Sequence[float], max_log: float) -> Tensor:
    """Move and scale boxes (..., 4) by deltas (..., 4), as torchvision's BoxCoder does.

    Args:
        deltas: Shifts of the center in sides, and logarithms of the sides' factors, times `weights`.
        boxes: Boxes, xyxy.
        weights: Factors of the four deltas; x and y have the same.
        max_log: Largest logarithm of a factor.
    """
    first = boxes[..., :2]
    sides = boxes[..., 2:] - first
    center = deltas[..., :2] / weights[0] * sides + (first + 0.5 * sides)
    half = 0.5 * (torch.exp((deltas[..., 2:] / weights[2]).clamp(max=max_log)) * sides)
    return torch.cat([center - half, center + half], dim=-1)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Limit boxes (..., 4) to an image."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def has_area(boxes: Tensor, min_side: float) -> Tensor:
    """Return 1 where both sides of boxes (..., 4) have at least a length, else 0: (...) float32."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides.amin(dim=-1) >= min_side).float()


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return rows (B, k, C) of values (B, n, C) by their numbers (B, k)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


class Suppression(nn.Module):
    """Non-maximum suppression of boxes that are sorted by score, in a fixed number of rounds.

    A round keeps each valid box that no kept box before it overlaps. Beginning with all boxes, the result of greedy
    suppression is reached after as many rounds as the longest chain of boxes of which each decides over the next one;
    from then on rounds change nothing.
    """

    def __init__(self, threshold: float, rounds: int) -> None:
        """Set the rule.

        Args:
            threshold: Intersection over union above which the later box is dropped.
            rounds: Number of rounds.
        """
        super().__init__()
        self.threshold, self.rounds = threshold, rounds

    def forward(self, boxes: Tensor, valid: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return which boxes are kept, (..., M) of 1 and 0.

        Args:
            boxes: (..., M, 4) xyxy, the best first.
            valid: (..., M) of 1 and 0; invalid boxes are dropped and drop none.
            classes: (..., M) class numbers; boxes of two classes do not overlap. Default: one class.
        """
        overlaps, candidates = self.overlaps(boxes, classes), valid[..., None, :]
        kept = candidates
        for _ in range(self.rounds):
            kept = next_round(overlaps, candidates, kept)
        return kept.squeeze(-2)

    def overlaps(self, boxes: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return 1 where box i comes before box j and overlaps it, else 0: (..., M, M) float32 by i and j."""
        x0, y0, x1, y1 = boxes.chunk(4, dim=-1)  # (..., M, 1)
        area = (x1 - x0) * (y1 - y0)
        width = torch.minimum(x1, x1.mT) - torch.maximum(x0, x0.mT)
        height = torch.minimum(y1, y1.mT) - torch.maximum(y0, y0.mT)
        shared = width.relu() * height.relu()
        number = torch.arange(boxes.shape[-2], device=boxes.device)
        above = (shared / (area + area.mT - shared) > self.threshold) & (number[:, None] < number)
        if classes is not None:
            above = above & (classes[..., :, None] == classes[..., None, :])
        return above.float()

    def settled(self, kept: Tensor, boxes: Tensor, valid: Tensor, classes: Tensor | None = None) -> bool:
        """Return whether one more round would change nothing."""
        kept = kept[..., None, :]
        return bool((next_round(self.overlaps(boxes, classes), valid[..., None, :], kept) == kept).all())


def next_round(overlaps: Tensor, candidates: Tensor, kept: Tensor) -> Tensor:
    """Return the candidates (..., 1, M) that no kept box overlaps."""
    rest: Tensor = candidates - kept @ overlaps
    return rest.relu()


class RoiPyramid:
    """Maps of several strides as one table of vectors, of which boxes are samples.

    The four neighbors of each sample are rows of the table. Reading rows is several times faster than GridSample, whose
    samples are spread over all channels.
    """

    def __init__(self, maps: Sequence[Tensor], strides: Sequence[float], thresholds: Sequence[float]) -> None:
        """Join the maps.

        Args:
            maps: Maps (B, C, h_i, w_i), the finest first.
            strides: Distance of two positions of each map in input pixels.
            thresholds: Square roots of areas, in input pixels, from which on a box belongs to the second map, to the
                third, and so on.
        """
        self.sizes = [(one.shape[2], one.shape[3]) for one in maps]
        self.strides, self.thresholds = strides, thresholds
        joined = torch.cat([one.flatten(2) for one in maps], dim=2)  # (B, C, P)
        self.positions = joined.shape[2]
        self.table = joined.transpose(1, 2).flatten(0, 1)  # (B * P, C)

    def align(self, boxes: Tensor, side: int) -> Tensor:
        """Average the samples of boxes (B, R, 4) in side x side bins: (B, R, side * side, C), as RoIAlign does.

        Each box is read from the map of its size, not aligned: the center of the first position is at 0. Samples more
        than one position outside of a map are 0; others are moved to its border.
        """
        index, weight = self._samples(boxes, side)  # (B, R, side * side, 16)
        chunk = max(1, CHUNK // side**2)
        parts = [
            (weights[..., None, :] @ F.embedding(rows, self.table)).squeeze(-2)
            for rows, weights in zip(torch.split(index, chunk, dim=1), torch.split(weight, chunk, dim=1), strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _samples(self, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return the rows of the table that the bins of boxes read, and their weights: (B, R, side * side, 16) each."""
        levels, before = self._levels(boxes), 0
        scale, start = torch.zeros_like(boxes[..., :1]), torch.zeros_like(levels[0])
        rows, columns = start, start
        for level, stride, (height, width) in zip(levels, self.strides, self.sizes, strict=True):
            scale = scale + level * (1 / stride)
            start, rows, columns = start + level * before, rows + level * height, columns + level * width
            before = before + height * width
        start = start + torch.arange(boxes.shape[0], device=boxes.device)[:, None, None] * self.positions
        x0, y0, x1, y1 = (boxes * scale).chunk(4, dim=-1)
        y, y_weight = _axis_samples(y0, y1, rows, side)
        x, x_weight = _axis_samples(x0, x1, columns, side)
        y = start[..., None] + y * columns[..., None]
        index = y[:, :, :, None, :, None] + x[:, :, None, :, None, :]  # (B, R, side, side, 4, 4)
        weight = y_weight[:, :, :, None, :, None] * x_weight[:, :, None, :, None, :]
        return index.flatten(4).flatten(2, 3), weight.flatten(4).flatten(2, 3)

    def _levels(self, boxes: Tensor) -> list[Tensor]:
        """Return for each map whether boxes belong to it, (B, R, 1) int64 of 0 and 1."""
        sides = boxes[..., 2:] - boxes[..., :2]
        size = (sides[..., :1] * sides[..., 1:]).sqrt()
        reached = [(size >= threshold).long() for threshold in self.thresholds]
        return [1 - reached[0], *(one - other for one, other in pairwise(reached)), reached[-1]]


def _axis_samples(first: Tensor, last: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the positions along one axis that bins read, and their weights: (B, R, side, 2 * SAMPLES) each.

    Args:
        first: Begin of boxes in positions, (B, R, 1).
        last: Their end.
        length: Number of positions, (B, R, 1) int64.
        side: Number of bins.
    """
    step, end = (last - first).clamp(min=1) / side, length.float()
    shares = (torch.arange(side * SAMPLES, device=first.device, dtype=torch.float32) + 0.5) / SAMPLES
    at = first + shares * step  # (B, R, side * SAMPLES)
    inside = ((at >= -1) & (at <= end)).float() / SAMPLES
    at = torch.minimum(at.relu(), end - 1)
    low = at.floor()
    positions = torch.stack([low, torch.minimum(low + 1, end - 1)], dim=-1).long()
    share = at - low
    weights = torch.stack([(1 - share) * inside, share * inside], dim=-1)
    shape = (side, 2 * SAMPLES)
    return torch.unflatten(positions.flatten(2), 2, shape), torch.unflatten(weights.flatten(2), 2, shape)
