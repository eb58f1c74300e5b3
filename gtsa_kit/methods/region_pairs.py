"""Regions of GTSA: the overlap of each pair of views, RoIAligned in the student's and the teacher's map.

Shapes: B images, G global views, V student views, P teacher views paired with each of them, C channels, h x w patches
of a map, p x p positions of a region. A box is (x0, y0, x1, y1) in pixels of the image, a rotation is k of
`torch.rot90`.
"""

import torch
from torch import Tensor

from gtsa_kit.geometry import intersect, roi_weights, rotate_boxes, rotate_maps, to_crop_coordinates


def other_view_indices(targets: Tensor) -> Tensor:
    """Return the indices (G, G - 1) of the other global views of each global view, for targets (B, G, ...).

    Computed by arithmetic, because `nonzero` would make the host wait for a GPU.
    """
    n = targets.shape[1]
    views = torch.arange(n, device=targets.device)
    return (views[:, None] + 1 + views[: n - 1]) % n


def roi_align_pairs(
    student: Tensor,
    teacher: Tensor,
    boxes: Tensor,
    rotations: Tensor,
    boxes_g: Tensor,
    rotations_g: Tensor,
    roi_size: int,
    pairs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RoIAlign the overlap of each pair of views in the student's and the teacher's map.

    RoIAlign and rotation are linear, so all regions of a map are one product of a matrix with its tokens.

    Args:
        student: Student maps, (B, V, C, h, w).
        teacher: Teacher maps, (B, G, C, H, W).
        boxes, rotations: Crops (B, V, 4) and rotations (B, V) of the student's views.
        boxes_g, rotations_g: Crops (B, G, 4) and rotations (B, G) of the teacher's views.
        roi_size: p.
        pairs: Teacher views to pair with each student view, (V, P) in 0..G-1, each index equally often; None pairs
            each student view with all teacher views.

    Returns:
        Regions of the student and of the teacher, both (B, V, P, C, p, p), both in the student view's orientation.
    """
    if pairs is None:
        pairs = torch.arange(teacher.shape[1], device=teacher.device).expand(student.shape[1], -1)
    boxes, boxes_g = boxes[:, :, None], boxes_g[:, pairs]
    overlap = intersect(boxes, boxes_g)  # (B, V, P, 4)
    rotations_g = rotations_g[:, pairs]
    rotations = rotations[:, :, None].expand_as(rotations_g)  # (B, V, P)
    rois = rotate_boxes(to_crop_coordinates(overlap, boxes), rotations)
    rois_g = rotate_boxes(to_crop_coordinates(overlap, boxes_g), rotations_g)
    weights = _roi_matrices(rois, roi_size, student.shape[-2:]).flatten(2, 3)  # (B, V, P * p * p, h * w)
    student_regions = weights @ map_tokens(student)  # (B, V, P * p * p, C)
    teacher_regions = _teacher_regions(teacher, rois_g, rotations - rotations_g, pairs, roi_size)
    shape = (*rotations.shape, roi_size, roi_size, student.shape[2])  # (B, V, P, p, p, C)
    return student_regions.reshape(shape).movedim(-1, 3), teacher_regions.reshape(shape).movedim(-1, 3)


def _teacher_regions(teacher: Tensor, rois: Tensor, rotations: Tensor, pairs: Tensor, roi_size: int) -> Tensor:
    """RoIAlign boxes (B, V, P, 4) in their teacher maps and rotate them by (B, V, P), to (B, V * P, p * p, C)."""
    weights = _roi_matrices(rois, roi_size, teacher.shape[-2:])  # (B, V, P, p * p, H * W)
    n_tokens = weights.shape[-1]
    weights = weights.mT.reshape(*rotations.shape, n_tokens, roi_size, roi_size)
    weights = rotate_maps(weights, rotations).flatten(-2).mT  # (B, V, P, p * p, H * W)
    by_teacher = pairs.flatten().argsort(stable=True)  # order in which the pairs of one teacher view are adjacent
    per_teacher = len(by_teacher) // teacher.shape[1] * roi_size * roi_size
    weights = weights.flatten(1, 2)[:, by_teacher].reshape(*teacher.shape[:2], per_teacher, n_tokens)
    regions = weights @ map_tokens(teacher)  # (B, G, V * P / G * p * p, C)
    regions = regions.reshape(len(regions), len(by_teacher), roi_size * roi_size, regions.shape[-1])
    return regions[:, by_teacher.argsort()]


def _roi_matrices(boxes: Tensor, roi_size: int, map_size: torch.Size) -> Tensor:
    """Return RoIAlign of boxes (..., 4) in the unit square as matrices (..., p * p, h * w) over a map's tokens."""
    x0, y0, x1, y1 = boxes.clamp(0, 1).unbind(-1)
    rows, columns = roi_weights(y0, y1, roi_size, map_size[0]), roi_weights(x0, x1, roi_size, map_size[1])
    weights = rows[..., :, None, :, None] * columns[..., None, :, None, :]  # (..., p, p, h, w)
    return weights.flatten(-2).flatten(-3, -2)


def map_tokens(maps: Tensor) -> Tensor:
    """Return maps (B, V, C, h, w) as tokens (B, V, h * w, C), in float32 at least.

    Nothing is copied for the heads' outputs, whose memory layout is channels-last.
    """
    return promote_to_float32(maps).movedim(2, -1).flatten(2, 3)


def promote_to_float32(maps: Tensor) -> Tensor:
    """Convert half-precision tensors to float32; float32 and float64 stay as they are."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
