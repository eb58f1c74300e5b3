"""Losses of GTSA (arXiv 2304.08014, equations 1 to 4): tensors in, scalars out.

Shapes: B images, G global views, L local views, V = G + L, C channels, h x w patches of a map, p x p positions of a
RoIAligned region, P teacher views paired with each student view. Global views come before local views. A box is
(x0, y0, x1, y1) in pixels of the image, a rotation is k of `torch.rot90`.

Cosines are computed in float32 for half-precision maps and in float64 for float64 maps.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gtsa_kit.config import LossConfig
from gtsa_kit.methods.region_pairs import map_tokens, other_view_indices, promote_to_float32, roi_align_pairs


def region_loss(
    global_maps: Tensor,
    local_maps: Tensor,
    targets: Tensor,
    boxes: Tensor,
    rotations: Tensor,
    roi_sizes: tuple[int, int],
) -> Tensor:
    """Return the region loss (equation 1): minus the cosine of student and teacher where their views overlap.

    Student and teacher maps are RoIAligned over the overlap of their crops to the same p x p grid. The teacher's region
    is then rotated by the difference of the two views' rotations. The mean is taken over all positions and over all
    pairs of a teacher view g and a student view v != g.

    Args:
        global_maps: Student maps, (B, G, C, h, w).
        local_maps: Student maps, (B, L, C, h', w').
        targets: Teacher maps, (B, G, C, h, w).
        boxes: Crops, (B, V, 4).
        rotations: Rotations of the views, (B, V).
        roi_sizes: p for a global and for a local student view.
    """
    n = global_maps.shape[1]
    boxes_g, rotations_g = boxes[:, :n], rotations[:, :n]
    pairs = other_view_indices(targets)
    args = (boxes_g, rotations_g, boxes_g, rotations_g, roi_sizes[0], pairs)
    terms = [_cosines(*roi_align_pairs(global_maps, targets, *args))]  # (B, G, G - 1, p, p)
    if local_maps.shape[1]:
        local_args = (boxes[:, n:], rotations[:, n:], boxes_g, rotations_g, roi_sizes[1])
        terms.append(_cosines(*roi_align_pairs(local_maps, targets, *local_args)))  # (B, L, G, p, p)
    return _negative_mean(torch.cat([term.mean((-2, -1)).flatten(1) for term in terms], dim=1))


def rotation_loss(rotation_logits: Tensor, rotations: Tensor) -> Tensor:
    """Return the rotation prediction loss (equation 2): cross-entropy over four rotations, mean over all views.

    Args:
        rotation_logits: (B, V, 4).
        rotations: (B, V) int64.
    """
    return F.cross_entropy(promote_to_float32(rotation_logits).flatten(0, 1), rotations.flatten())


def correspondence_loss(global_maps: Tensor, local_maps: Tensor, targets: Tensor, match_fraction: float) -> Tensor:
    """Return the patch correspondence loss (equation 3): minus the cosine of the best matching patches of two views.

    Each student patch is matched with its cosine nearest neighbor among the teacher's patches and the other way
    around. The best K matches of each direction count. The mean is taken over all pairs of a teacher view g and a
    student view v != g.

    Args:
        global_maps: Student maps, (B, G, C, h, w).
        local_maps: Student maps, (B, L, C, h', w').
        targets: Teacher maps, (B, G, C, h, w).
        match_fraction: K divided by the number of the student's patches.
    """
    paired_tokens = map_tokens(targets)[:, other_view_indices(targets)]  # (B, G, G - 1, h * w, C)
    terms = [_mean_best_cosine(global_maps, paired_tokens, match_fraction)]
    if local_maps.shape[1]:
        terms.append(_mean_best_cosine(local_maps, map_tokens(targets)[:, None], match_fraction))
    return _negative_mean(torch.cat([term.flatten(1) for term in terms], dim=1))


class GTSALosses(NamedTuple):
    """Total loss and its terms, scalars."""

    total: Tensor
    region: Tensor
    correspondence: Tensor
    rotation: Tensor


def gtsa_loss(
    global_maps: Tensor,
    local_maps: Tensor,
    rotation_logits: Tensor,
    targets: Tensor,
    boxes: Tensor,
    rotations: Tensor,
    config: LossConfig,
    alpha: float,
) -> GTSALosses:
    """Return the total loss (equation 4): region + alpha * correspondence + beta * rotation.

    Args:
        global_maps, local_maps, targets: Student and teacher maps, as for `region_loss`.
        rotation_logits: (B, V, 4).
        boxes, rotations: Crops (B, V, 4) and rotations (B, V) of the views.
        config: Loss settings; beta is `config.rotation_weight`.
        alpha: Weight of the patch correspondence loss at this step; 0 during warm-up.
    """
    sizes = roi_sizes(config, global_maps, local_maps)
    region = region_loss(global_maps, local_maps, targets, boxes, rotations, sizes)
    correspondence = correspondence_loss(global_maps, local_maps, targets, config.match_fraction)
    rotation = rotation_loss(rotation_logits, rotations)
    total = region + alpha * correspondence + config.rotation_weight * rotation
    return GTSALosses(total, region, correspondence, rotation)


def roi_sizes(config: LossConfig, global_maps: Tensor, local_maps: Tensor) -> tuple[int, int]:
    """Return the sides p of the RoIAlign grids for student maps (..., h, w): settings, or by the number of patches."""
    pairs = ((config.roi_size_global, global_maps), (config.roi_size_local, local_maps))
    by_size = (10 if maps.shape[-2] * maps.shape[-1] > 100 else 4 for _, maps in pairs)
    first, second = (size if setting == "auto" else setting for (setting, _), size in zip(pairs, by_size, strict=True))
    return first, second


def constant_baseline_loss(targets: Tensor, boxes: Tensor, rotations: Tensor, roi_size: int) -> Tensor:
    """Return the lowest region loss over global views that a constant student output can reach.

    All tokens of a teacher tend to share one direction. A region loss that is not below this baseline has learned that
    direction only and nothing about the images.

    Args:
        targets: Teacher maps, (B, G, C, h, w).
        boxes, rotations: Crops (B, V, 4) and rotations (B, V) of the views.
        roi_size: p.
    """
    n = targets.shape[1]
    views = (boxes[:, :n], rotations[:, :n])
    _, aligned = roi_align_pairs(targets, targets, *views, *views, roi_size, other_view_indices(targets))
    # The best constant is the mean direction of all (B, G, G - 1, C, p, p) targets; the mean's norm is its cosine.
    return -_unit(aligned, dim=3).mean((0, 1, 2, 4, 5)).norm() if aligned.numel() else aligned.sum()


def _cosines(student: Tensor, teacher: Tensor) -> Tensor:
    """Return cosines (B, V, P, p, p) over the channels of regions (B, V, P, C, p, p)."""
    cosines: Tensor = (student * _unit(teacher, dim=3)).sum(3) / safe_norm(student, dim=3).squeeze(3)
    return cosines


def _mean_best_cosine(student: Tensor, teacher_tokens: Tensor, match_fraction: float) -> Tensor:
    """Return the mean cosine (B, V, P) of the best K matches of each direction.

    A match's cosine is the maximum of the similarity matrix, so no token has to be gathered.

    Args:
        student: Student maps, (B, V, C, h, w).
        teacher_tokens: Tokens of the paired teacher views, (B, V, P, m, C), with 1 in place of V where all views have
            the same pairs.
        match_fraction: K divided by the number of the student's patches.
    """
    tokens = map_tokens(student)  # (B, V, n, C)
    views, n, m = *tokens.shape[1:3], teacher_tokens.shape[3]
    rows = tokens if teacher_tokens.shape[1] == views else tokens.flatten(1, 2)[:, None]
    similarity = rows @ _unit(teacher_tokens, dim=-1).flatten(2, 3).mT  # (B, V, n, P * m) or (B, 1, V * n, P * m)
    similarity = similarity.reshape(len(tokens), views, n, teacher_tokens.shape[2], m)  # (B, V, n, P, m)
    similarity = similarity / safe_norm(tokens, dim=-1)[..., None]
    k = min(max(1, round(match_fraction * n)), m)
    student_to_teacher = similarity.amax(dim=-1).topk(k, dim=2).values.mean(2)  # (B, V, P)
    teacher_to_student = similarity.amax(dim=2).topk(k).values.mean(-1)  # (B, V, P)
    return (student_to_teacher + teacher_to_student) / 2


def _unit(vectors: Tensor, dim: int) -> Tensor:
    """Return vectors scaled to length 1 along `dim`."""
    return vectors / safe_norm(vectors, dim)


def safe_norm(vectors: Tensor, dim: int) -> Tensor:
    """Return L2 norms along `dim` (kept as size 1), at least 1e-12, so that the cosine with a zero vector is 0."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return norms.clamp(min=1e-12)


def _negative_mean(cosines: Tensor) -> Tensor:
    """Return minus the mean, or a 0 with gradient if there is no pair (one global view and no local view)."""
    return -cosines.mean() if cosines.numel() else cosines.sum()
