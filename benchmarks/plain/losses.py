"""GTSA losses in a straightforward way: image by image and view by view, with torchvision's RoIAlign.

benchmarks/training.py compares them with `gtsa_kit.methods.gtsa_losses`; both give the same values.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from gtsa_kit.config import LossConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.gtsa import GTSAOutputs


def plain_loss(outputs: GTSAOutputs, views: Views, config: LossConfig, alpha: float) -> Tensor:
    """Return the weighted sum of region, patch correspondence and rotation loss."""
    maps = [view.float() for view in outputs.global_maps.unbind(1)]
    maps += [view.float() for view in outputs.local_maps.unbind(1)]
    targets = [view.float() for view in outputs.targets.unbind(1)]
    region, correspondence = [], []
    for g, target in enumerate(targets):
        for v, student in enumerate(maps):
            if v == g:
                continue
            size = config.roi_size_global if v < len(targets) else config.roi_size_local
            if size == "auto":
                size = 10 if student[0, 0].numel() > 100 else 4
            for b in range(len(target)):
                boxes, rotations = views.boxes[b], views.rotations[b]
                overlap = intersection(boxes[v], boxes[g])
                student_region = align_region(student[b], overlap, boxes[v], int(rotations[v]), size)
                teacher_region = align_region(target[b], overlap, boxes[g], int(rotations[g]), size)
                teacher_region = torch.rot90(teacher_region, int(rotations[v] - rotations[g]), (1, 2))
                region.append(-F.cosine_similarity(student_region, teacher_region, dim=0).mean())
                correspondence.append(-mean_best_cosine(student[b], target[b], config.match_fraction))
    rotation = F.cross_entropy(outputs.rotation_logits.float().flatten(0, 1), views.rotations.flatten())
    return torch.stack(region).mean() + alpha * torch.stack(correspondence).mean() + config.rotation_weight * rotation


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection of two boxes (4,)."""
    return torch.cat([torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])])


def align_region(features: Tensor, box: Tensor, crop: Tensor, rotation: int, size: int) -> Tensor:
    """RoIAlign a box of the image in the map (C, h, w) of one of its views, to (C, size, size)."""
    side = features.shape[-1]
    x0, y0, x1, y1 = ((box - crop[:2].repeat(2)) / (crop[2:] - crop[:2]).repeat(2)).tolist()
    for _ in range(rotation):  # rot90 counter-clockwise maps (x, y) to (y, 1 - x)
        x0, y0, x1, y1 = y0, 1 - x1, y1, 1 - x0
    roi = features.new_tensor([[x0, y0, x1, y1]]) * side
    regions: Tensor = roi_align(features[None], [roi], size, aligned=True)
    return regions[0]


def mean_best_cosine(student: Tensor, target: Tensor, match_fraction: float) -> Tensor:
    """Return the mean cosine of the best matches of both directions between two maps (C, h, w)."""
    s, t = student.flatten(1).T, target.flatten(1).T  # (n, C), (m, C)
    similarity = F.normalize(s, dim=1) @ F.normalize(t, dim=1).T
    count = min(max(1, round(match_fraction * len(s))), len(t))
    to_teacher, to_student = similarity.argmax(dim=1), similarity.argmax(dim=0)
    forward = F.cosine_similarity(s, t[to_teacher], dim=1)
    backward = F.cosine_similarity(s[to_student], t, dim=1)
    return (forward.topk(count).values.mean() + backward.topk(count).values.mean()) / 2
