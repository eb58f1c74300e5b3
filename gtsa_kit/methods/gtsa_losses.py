"""The losses of GTSA: tensors in, scalar out. B images, G global and L local views, V = G + L, C channels.

All cosines are taken in float32 whatever the maps' precision; float64 stays float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gtsa_kit.config import LossConfig
from gtsa_kit.geometry import intersect, roi_weights, rotate_boxes, rotate_maps, to_crop_coordinates
from gtsa_kit.methods.gtsa import Outputs


class Losses(NamedTuple):
    """Scalars."""

    total: Tensor
    region: Tensor
    correspondence: Tensor
    rotation: Tensor


def gtsa_loss(outputs: Outputs, boxes: Tensor, turns: Tensor, config: LossConfig, alpha: float) -> Losses:
    """The whole: l + alpha * l_pc + beta * l_rp (eq. 4), with `boxes` (B, V, 4), `turns` (B, V), globals first.

    `alpha` is an argument of its own since it is 0 during warm-up.
    """
    cells = (config.roi_size_global, config.roi_size_local)
    region = region_loss(outputs.global_maps, outputs.local_maps, outputs.targets, boxes, turns, cells)
    correspondence = correspondence_loss(
        outputs.global_maps, outputs.local_maps, outputs.targets, config.match_fraction
    )
    rotation = rotation_loss(outputs.turn_logits, turns)
    total = region + alpha * correspondence + config.rotation_weight * rotation
    return Losses(total, region, correspondence, rotation)


def region_loss(
    global_maps: Tensor, local_maps: Tensor, targets: Tensor, boxes: Tensor, turns: Tensor, cells: tuple[int, int]
) -> Tensor:
    """Minus the cosine of student and teacher where their views overlap (eq. 1), over all pairs of g and view l != g.

    Both maps are RoIAligned over the overlap, to the same grid; the teacher's region is turned by the difference of
    the two views' turns, so that it lies as the student's does.

    Args:
        global_maps, local_maps: (B, G, C, h, w) and (B, L, C, h', w') of the student.
        targets: (B, G, C, h, w) of the teacher.
        boxes, turns: (B, V, 4) crops in pixels of the image, (B, V) quarter turns.
        cells: Side of the grid for a global and for a local student view.
    """
    n = global_maps.shape[1]
    crops, spins = boxes[:, :n], turns[:, :n]
    terms = [_cosines(*roi_align_pairs(global_maps, targets, crops, spins, crops, spins, cells[0], others(targets)))]
    if local_maps.shape[1]:
        args = (boxes[:, n:], turns[:, n:], crops, spins, cells[1])
        terms.append(_cosines(*roi_align_pairs(local_maps, targets, *args)))
    return _minus_mean(torch.cat([term.mean((-2, -1)).flatten(1) for term in terms], dim=1))


def constant_baseline_loss(targets: Tensor, boxes: Tensor, turns: Tensor, cells: int) -> Tensor:
    """What `region_loss` over global views would be if the student said the same, and that the best, of every place.

    Teachers come to agree on a direction that all their tokens share. A region loss that has fallen no lower than this
    has learnt that direction, and nothing of the images.
    """
    n = targets.shape[1]
    seen = (boxes[:, :n], turns[:, :n])
    _, aligned = roi_align_pairs(targets, targets, *seen, *seen, cells, others(targets))  # (B, G, G - 1, C, p, p)
    return -_unit(aligned, dim=3).mean((0, 1, 2, 4, 5)).norm() if aligned.numel() else aligned.sum()


def correspondence_loss(global_maps: Tensor, local_maps: Tensor, targets: Tensor, matched: float) -> Tensor:
    """Pull similar patches of two views together, wherever they lie (eq. 2), over all pairs of g and view l != g.

    Each student patch finds its cosine nearest neighbor among the teacher's and each teacher patch among the
    student's; the best K pairs each way count, minus their cosines, averaged.
    K is `matched` times the student's patches.
    """
    partners = _tokens(targets)[:, others(targets)]  # (B, G, G - 1, m, C)
    terms = [_best_matches(global_maps, partners, matched)]
    if local_maps.shape[1]:
        terms.append(_best_matches(local_maps, _tokens(targets)[:, None], matched))
    return _minus_mean(torch.cat([term.flatten(1) for term in terms], dim=1))


def rotation_loss(turn_logits: Tensor, turns: Tensor) -> Tensor:
    """Cross-entropy of the predicted quarter turns (eq. 3), mean over all views: (B, V, 4) logits, (B, V) turns."""
    return F.cross_entropy(_widen(turn_logits).flatten(0, 1), turns.flatten())


def others(targets: Tensor) -> Tensor:
    """(G, G - 1) for (B, G, ...): to each global view the others. By arithmetic, since a search would stall a GPU."""
    n = targets.shape[1]
    views = torch.arange(n, device=targets.device)
    return (views[:, None] + 1 + views[: n - 1]) % n


def roi_align_pairs(
    student: Tensor,
    teacher: Tensor,
    crops: Tensor,
    turns: Tensor,
    crops_g: Tensor,
    turns_g: Tensor,
    cells: int,
    partners: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What student and teacher make of each pair's overlap: two (B, V, P, C, p, p) that lie as the student's view does.

    RoIAlign and the turn are linear: all regions of a map are one matrix product with its tokens.

    Args:
        student, teacher: (B, V, C, h, w) and (B, G, C, H, W).
        crops, turns: Of the student's views, (B, V, 4) and (B, V).
        crops_g, turns_g: Of the teacher's, (B, G, 4) and (B, G).
        cells: p.
        partners: (V, P) of 0..G-1, each as often as the others: with whom a view is paired; None: with all.
    """
    if partners is None:
        partners = torch.arange(teacher.shape[1], device=teacher.device).expand(student.shape[1], -1)
    crops, crops_g = crops[:, :, None], crops_g[:, partners]
    overlap = intersect(crops, crops_g)  # (B, V, P, 4) pixels of the image
    spin_g = turns_g[:, partners]
    spin = turns[:, :, None].expand_as(spin_g)
    weights = _roi_matrices(rotate_boxes(to_crop_coordinates(overlap, crops), spin), cells, student.shape[-2:])
    seen = weights.flatten(2, 3) @ _tokens(student)  # (B, V, P * p * p, C)
    weights = _roi_matrices(rotate_boxes(to_crop_coordinates(overlap, crops_g), spin_g), cells, teacher.shape[-2:])
    tokens = weights.shape[-1]
    weights = rotate_maps(weights.mT.reshape(*spin.shape, tokens, cells, cells), spin - spin_g).flatten(-2).mT
    by_teacher = partners.flatten().argsort(stable=True)  # pairs, so that those of a teacher follow each other
    per_teacher = len(by_teacher) // teacher.shape[1] * cells * cells
    weights = weights.flatten(1, 2)[:, by_teacher].reshape(*teacher.shape[:2], per_teacher, tokens)
    target = weights @ _tokens(teacher)  # (B, G, V * P / G * p * p, C)
    target = target.reshape(len(target), len(by_teacher), cells * cells, target.shape[-1])[:, by_teacher.argsort()]
    shape = (*spin.shape, cells, cells, student.shape[2])
    return seen.reshape(shape).movedim(-1, 3), target.reshape(shape).movedim(-1, 3)


def _roi_matrices(boxes: Tensor, cells: int, size: torch.Size) -> Tensor:
    """(..., cells * cells, h * w) from a map's tokens to its RoIAlign over (..., 4) boxes in the unit square."""
    x0, y0, x1, y1 = boxes.clamp(0, 1).unbind(-1)
    rows, columns = roi_weights(y0, y1, cells, size[0]), roi_weights(x0, x1, cells, size[1])
    both = rows[..., :, None, :, None] * columns[..., None, :, None, :]  # (..., p, p, h, w)
    return both.flatten(-2).flatten(-3, -2)


def _cosines(student: Tensor, teacher: Tensor) -> Tensor:
    """(B, V, P, p, p) over the channels of (B, V, P, C, p, p); the teacher's have no gradient."""
    cosines: Tensor = (student * _unit(teacher, dim=3)).sum(3) / _lengths(student, dim=3).squeeze(3)
    return cosines


def _best_matches(student: Tensor, partners: Tensor, matched: float) -> Tensor:
    """(B, V, P): mean cosine of the best K pairs each way. The best similarity is the term: no gather is needed.

    Args:
        student: (B, V, C, h, w).
        partners: (B, V, P, m, C) of the teacher, with 1 for V where they are the same for all views.
        matched: K as a share of the student's patches.
    """
    tokens = _tokens(student)  # (B, V, n, C)
    views, n, m = *tokens.shape[1:3], partners.shape[3]
    rows = tokens if partners.shape[1] == views else tokens.flatten(1, 2)[:, None]
    similarity = rows @ _unit(partners, dim=-1).flatten(2, 3).mT
    similarity = similarity.reshape(len(tokens), views, n, partners.shape[2], m) / _lengths(tokens, dim=-1)[..., None]
    k = min(max(1, round(matched * n)), m)
    to_teacher = similarity.amax(dim=-1).topk(k, dim=2).values.mean(2)
    to_student = similarity.amax(dim=2).topk(k).values.mean(-1)
    return (to_teacher + to_student) / 2


def _tokens(maps: Tensor) -> Tensor:
    """(B, V, C, h, w) to (B, V, h * w, C) in float32; a view of what heads give, whose channels lie side by side."""
    return _widen(maps).movedim(2, -1).flatten(2, 3)


def _unit(vectors: Tensor, dim: int) -> Tensor:
    return vectors / _lengths(vectors, dim)


def _lengths(vectors: Tensor, dim: int) -> Tensor:
    """Kept above 0, so that a cosine with nothing is 0."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return lengths.clamp(min=1e-12)


def _widen(maps: Tensor) -> Tensor:
    """Half precision to float32, the rest as it is."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _minus_mean(cosines: Tensor) -> Tensor:
    """Minus the mean; 0, still in the graph, where there is no pair (one global view and no local one)."""
    return -cosines.mean() if cosines.numel() else cosines.sum()
