"""Detections of the head eomt: each query is one object at most, so that nothing has to be suppressed.

No shape depends on the values of a tensor, so that the same operators are exported.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from gtsa_kit.models.detections import Detections
from gtsa_kit.models.detector_spec import MASK_SIZE, DetectorSpec
from gtsa_kit.models.eomt import QueryMasks

FAR: Final = 1e6
"""Position beyond every map."""


def query_detections(queries: QueryMasks, spec: DetectorSpec, stride: float) -> Detections:
    """Return the best queries as detections, the highest score first.

    The score is the probability of the query's best class times the mean probability of the pixels of its mask, as in
    transformers. The mask is where the logits are above 0, and the box encloses it: its edges lie where interpolated
    logits are 0.

    Args:
        queries: Predictions of the queries after the last block.
        spec: Number of detections, and the score that they exceed.
        stride: Distance of two positions of the masks in input pixels.
    """
    masks, classes = queries
    probabilities, inside = masks.sigmoid(), (masks > 0).to(masks.dtype)
    best, labels = classes.softmax(dim=-1)[..., :-1].max(dim=-1)  # (B, Q)
    scores = best * (probabilities * inside).sum((-2, -1)) / (inside.sum((-2, -1)) + 1e-6)
    scores = scores * (scores > spec.score_threshold)
    scores, index = scores.topk(min(spec.max_detections, scores.shape[1]), dim=1)  # (B, N)
    used = (scores > 0).to(masks.dtype)
    boxes = mask_boxes(masks)
    small = resample_boxes(probabilities, boxes, MASK_SIZE).flatten(2)
    boxes, small = (one.gather(1, index[..., None].expand(-1, -1, one.shape[2])) for one in (boxes, small))
    small = torch.unflatten(small, 2, (MASK_SIZE, MASK_SIZE))
    missing = spec.max_detections - scores.shape[1]
    return Detections(
        F.pad(stride * boxes * used[..., None], (0, 0, 0, missing)),
        F.pad(scores, (0, missing)),
        F.pad((labels.gather(1, index) * used.long()).int(), (0, missing)),
        F.pad(small * used[..., None, None], (0, 0, 0, 0, 0, missing)),
    )


def mask_boxes(masks: Tensor) -> Tensor:
    """Return the boxes x0, y0, x1, y1 of masks (B, Q, h, w) by their logits, (B, Q, 4) in positions of the masks.

    A position is a square of side 1. The box of a mask without a logit above 0 is of no use.
    """
    (x0, x1), (y0, y1) = _edges(masks.amax(dim=-2)), _edges(masks.amax(dim=-1))
    return torch.stack([x0, y0, x1, y1], dim=-1)


def _edges(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return where interpolated logits (..., n) rise above 0 first, and where they fall to it last, (...) each.

    Beyond the centers of the first and last position they stay as they are there.
    """
    low, high, length = logits[..., :-1], logits[..., 1:], logits.shape[-1]
    crossings = torch.arange(length - 1, device=logits.device) + 0.5 + low / (low - high)
    first = torch.where((low <= 0) & (high > 0), crossings, FAR).amin(dim=-1)
    last = torch.where((low > 0) & (high <= 0), crossings, 0.0).amax(dim=-1)
    ends = (logits[..., 0] > 0).to(logits.dtype), (logits[..., -1] > 0).to(logits.dtype)
    return first * (1 - ends[0]), torch.maximum(last, length * ends[1])


def resample_boxes(values: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Resample the part of maps (B, N, h, w) in boxes (B, N, 4) to (B, N, side, side), with an antialiased filter.

    Args:
        values: Maps; beyond their edges they are those of the edge.
        boxes: Boxes x0, y0, x1, y1 in positions of the maps.
        side: Side of the results.
    """
    rows = _filters(boxes[..., 1], boxes[..., 3], values.shape[-2], side)
    columns = _filters(boxes[..., 0], boxes[..., 2], values.shape[-1], side)
    return rows @ values @ columns.transpose(-2, -1)


def _filters(first: Tensor, last: Tensor, length: int, side: int) -> Tensor:
    """Return the weights of positions in `side` bins from `first` to `last`: (..., side, length); triangles."""
    step = ((last - first) / side)[..., None]
    bins = torch.arange(side, device=first.device) + 0.5
    centers = (first[..., None] + bins * step - 0.5).clamp(0, length - 1)
    distance = (centers[..., None] - torch.arange(length, device=first.device)).abs()
    weights = (1 - distance / step.clamp(min=1)[..., None]).relu()
    return weights / weights.sum(dim=-1, keepdim=True)
