"""The losses written in the obvious way: image by image, view by view, torchvision's RoIAlign on lists of one box.

The yardstick of benchmarks/training.py. It follows the table in the design and agrees with
`gtsa_kit.methods.gtsa_losses`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from gtsa_kit.config import LossConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.gtsa import GTSAOutputs


def plain_loss(outputs: GTSAOutputs, views: Views, config: LossConfig, alpha: float) -> Tensor:
    """Region, patch correspondence and rotation, weighted."""
    maps = [view.float() for view in outputs.global_maps.unbind(1)]
    maps += [view.float() for view in outputs.local_maps.unbind(1)]
    targets = [view.float() for view in outputs.targets.unbind(1)]
    region, correspondence = [], []
    for g, target in enumerate(targets):
        for v, student in enumerate(maps):
            if v == g:
                continue
            cells = config.roi_size_global if v < len(targets) else config.roi_size_local
            for b in range(len(target)):
                boxes, turns = views.boxes[b], views.rotations[b]
                overlap = intersection(boxes[v], boxes[g])
                seen = region_of(student[b], overlap, boxes[v], int(turns[v]), cells)
                wanted = region_of(target[b], overlap, boxes[g], int(turns[g]), cells)
                wanted = torch.rot90(wanted, int(turns[v] - turns[g]), (1, 2))
                region.append(-F.cosine_similarity(seen, wanted, dim=0).mean())
                correspondence.append(-matches(student[b], target[b], config.match_fraction))
    rotation = F.cross_entropy(outputs.rotation_logits.float().flatten(0, 1), views.rotations.flatten())
    return torch.stack(region).mean() + alpha * torch.stack(correspondence).mean() + config.rotation_weight * rotation


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Of two boxes (4,)."""
    return torch.cat([torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])])


def region_of(features: Tensor, box: Tensor, crop: Tensor, turn: int, cells: int) -> Tensor:
    """(C, cells, cells): a box of the image, RoIAligned from the (C, h, w) map of a view of it."""
    side = features.shape[-1]
    x0, y0, x1, y1 = ((box - crop[:2].repeat(2)) / (crop[2:] - crop[:2]).repeat(2)).tolist()
    for _ in range(turn):  # a quarter turn counter-clockwise takes (x, y) to (y, 1 - x)
        x0, y0, x1, y1 = y0, 1 - x1, y1, 1 - x0
    roi = features.new_tensor([[x0, y0, x1, y1]]) * side
    found: Tensor = roi_align(features[None], [roi], cells, aligned=True)
    return found[0]


def matches(student: Tensor, target: Tensor, share: float) -> Tensor:
    """Mean cosine of the best pairs each way between two (C, h, w) maps."""
    s, t = student.flatten(1).T, target.flatten(1).T  # (n, C), (m, C)
    similarity = F.normalize(s, dim=1) @ F.normalize(t, dim=1).T
    count = min(max(1, round(share * len(s))), len(t))
    to_teacher, to_student = similarity.argmax(dim=1), similarity.argmax(dim=0)
    forward = F.cosine_similarity(s, t[to_teacher], dim=1)
    backward = F.cosine_similarity(s[to_student], t, dim=1)
    return (forward.topk(count).values.mean() + backward.topk(count).values.mean()) / 2
