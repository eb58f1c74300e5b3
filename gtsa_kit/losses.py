"""The losses of GTSA: tensors in, scalar out. B photographs, G global and L local views, V = G + L, C channels.

All cosines are taken in float32 whatever the maps' precision; float64 stays float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gtsa_kit.config import LossConfig
from gtsa_kit.geometry import intersect, roi_weights, turn_boxes, turn_maps, within
from gtsa_kit.model import Outputs


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
    cells = (config.global_region, config.local_region)
    region = region_loss(outputs.global_maps, outputs.local_maps, outputs.targets, boxes, turns, cells)
    correspondence = correspondence_loss(outputs.global_maps, outputs.local_maps, outputs.targets, config.matched)
    rotation = rotation_loss(outputs.turn_logits, turns)
    total = region + alpha * correspondence + config.rotation * rotation
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
        boxes, turns: (B, V, 4) crops in pixels of the photograph, (B, V) quarter turns.
        cells: Side of the grid for a global and for a local student view.
    """
    n_global, n_local = global_maps.shape[1], local_maps.shape[1]
    crops, spins = boxes[:, :n_global], turns[:, :n_global]
    cosines = _region_cosines(global_maps, targets, crops, spins, crops, spins, cells[0])  # (B, G, G)
    terms = [cosines.flatten(1)[:, _off_diagonal(n_global, cosines.device)]]
    if n_local:
        args = (boxes[:, n_global:], turns[:, n_global:], crops, spins, cells[1])
        terms.append(_region_cosines(local_maps, targets, *args).flatten(1))
    return _minus_mean(torch.cat(terms, dim=1))


def constant_loss(targets: Tensor, boxes: Tensor, turns: Tensor, cells: int) -> Tensor:
    """What `region_loss` over global views would be if the student said the same, and that the best, of every place.

    Teachers come to agree on a direction that all their tokens share. A region loss that has fallen no lower than this
    has learnt that direction, and nothing of the photographs.
    """
    n = targets.shape[1]
    seen = (boxes[:, :n], turns[:, :n])
    _, aligned = align_regions(targets, targets, *seen, *seen, cells)  # (B, G, G, C, p, p)
    aligned = F.normalize(aligned.flatten(1, 2)[:, _off_diagonal(n, targets.device)], dim=2)
    return -aligned.mean((0, 1, 3, 4)).norm() if aligned.numel() else aligned.sum()


def correspondence_loss(global_maps: Tensor, local_maps: Tensor, targets: Tensor, matched: float) -> Tensor:
    """Pull similar patches of two views together, wherever they lie (eq. 2), over all pairs of g and view l != g.

    Each student patch finds its cosine nearest neighbour among the teacher's and each teacher patch among the
    student's; the best K pairs each way count, minus their cosines, averaged.
    K is `matched` times the student's patches.
    """
    n_global = global_maps.shape[1]
    best = _best_matches(global_maps, targets, matched)  # (B, G, G)
    terms = [best.flatten(1)[:, _off_diagonal(n_global, best.device)]]
    if local_maps.shape[1]:
        terms.append(_best_matches(local_maps, targets, matched).flatten(1))
    return _minus_mean(torch.cat(terms, dim=1))


def rotation_loss(turn_logits: Tensor, turns: Tensor) -> Tensor:
    """Cross-entropy of the predicted quarter turns (eq. 3), mean over all views: (B, V, 4) logits, (B, V) turns."""
    return F.cross_entropy(_widen(turn_logits).flatten(0, 1), turns.flatten())


def _region_cosines(
    student: Tensor, teacher: Tensor, crops: Tensor, turns: Tensor, crops_g: Tensor, turns_g: Tensor, cells: int
) -> Tensor:
    """(B, V, G): mean cosine over the overlap's cells, for (B, V, C, h, w) against (B, G, C, H, W)."""
    seen, target = align_regions(student, teacher, crops, turns, crops_g, turns_g, cells)
    return F.cosine_similarity(seen, target, dim=3).mean((-2, -1))


def align_regions(
    student: Tensor, teacher: Tensor, crops: Tensor, turns: Tensor, crops_g: Tensor, turns_g: Tensor, cells: int
) -> tuple[Tensor, Tensor]:
    """What student and teacher make of each pair's overlap: two (B, V, G, C, p, p) that lie as the student's view does.

    For (B, V, C, h, w) of the student and (B, G, C, H, W) of the teacher; p is `cells`.
    """
    pairs = (*crops.shape[:2], crops_g.shape[1])  # B, V, G
    overlap = intersect(crops[:, :, None], crops_g[:, None])  # (B, V, G, 4) pixels of the photograph
    spin, spin_g = turns[:, :, None].expand(pairs), turns_g[:, None].expand(pairs)
    in_student = turn_boxes(within(overlap, crops[:, :, None]), spin)
    in_teacher = turn_boxes(within(overlap, crops_g[:, None]), spin_g)
    rows, columns = _roi_weights(in_student, cells, student.shape[-2:])
    seen = torch.einsum("bvgph,bvchw->bvgpcw", rows, _widen(student))
    seen = torch.einsum("bvgpcw,bvgqw->bvgcpq", seen, columns)
    rows, columns = _roi_weights(in_teacher, cells, teacher.shape[-2:])
    target = torch.einsum("bvgph,bgchw->bvgpcw", rows, _widen(teacher))
    target = torch.einsum("bvgpcw,bvgqw->bvgcpq", target, columns)
    return seen, turn_maps(target, spin - spin_g)


def _roi_weights(boxes: Tensor, cells: int, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Row and column weights, (..., cells, h) and (..., cells, w), of boxes in the unit square."""
    x0, y0, x1, y1 = boxes.clamp(0, 1).unbind(-1)
    return roi_weights(y0, y1, cells, size[0]), roi_weights(x0, x1, cells, size[1])


def _best_matches(student: Tensor, teacher: Tensor, matched: float) -> Tensor:
    """(B, V, G): mean cosine of the best K pairs each way. The best similarity is the term: no gather is needed."""
    s = F.normalize(_widen(student).flatten(3), dim=2)  # (B, V, C, n)
    t = F.normalize(_widen(teacher).flatten(3), dim=2)  # (B, G, C, m)
    similarity = torch.einsum("bvcn,bgcm->bvgnm", s, t)
    k = min(max(1, round(matched * s.shape[-1])), t.shape[-1])
    to_teacher = similarity.amax(dim=-1).topk(k).values.mean(-1)
    to_student = similarity.amax(dim=-2).topk(k).values.mean(-1)
    return (to_teacher + to_student) / 2


def _widen(maps: Tensor) -> Tensor:
    """Half precision to float32, the rest as it is."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _off_diagonal(n: int, device: torch.device) -> Tensor:
    """Flat indices (n * n - n,) of the pairs (v, g) with v != g; by arithmetic, since a search would stall a GPU."""
    pairs = torch.arange(n * n - n, device=device)
    return pairs + pairs // n + 1  # after each pair on the diagonal, n that are not


def _minus_mean(cosines: Tensor) -> Tensor:
    """Minus the mean; 0, still in the graph, where there is no pair (one global view and no local one)."""
    return -cosines.mean() if cosines.numel() else cosines.sum()
