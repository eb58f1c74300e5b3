"""Detector as it is exported: one graph with fixed numbers of proposals and detections, on the weights of the head."""

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.export.detector_layers import (
    RoiPyramid,
    Suppression,
    clip_boxes,
    decode_boxes,
    gather_rows,
    has_area,
    level_anchors,
)
from gtsa_kit.export.head_graph import CastLayer
from gtsa_kit.models.detector_spec import FINEST_LEVEL
from gtsa_kit.models.task_spec import LEVELS

NMS_ROUNDS: Final = 16
"""Rounds of suppression; boxes of trained detectors settle after fewer than 12."""
MIN_CANDIDATES: Final = 1000
MAX_CANDIDATES: Final = 3840
"""Limits of the number of pairs of a proposal and a class that suppression takes; TensorRT sorts no more."""
MIN_PROPOSAL_SIDE: Final = 1e-3
"""Shortest side of a proposal in input pixels, as in torchvision."""
MIN_BOX_SIDE: Final = 1e-2
"""Shortest side of a detection in input pixels, as in torchvision."""
LOWEST: Final = -1e9
"""Logit of the candidates that fill a level up."""
LEVEL_SIDES: Final = tuple(224 * 2.0 ** (level - 4 - 1e-6) for level in range(FINEST_LEVEL + 1, FINEST_LEVEL + LEVELS))
"""Square roots of areas, in input pixels, from which on boxes are read from the second map, the third and the fourth.

The rule of Lin et al. (arXiv 1612.03144, equation 1) with the margin of torchvision's LevelMapper.
"""


class DetectorGraph(nn.Module):
    """Head of a detector that maps four maps of a ViT to boxes, scores, labels and masks, see `models.detector`."""

    def __init__(self, head: Any, rounds: int = NMS_ROUNDS) -> None:
        """Take over the layers of a head.

        Args:
            head: Copy of a `DetectorHead`, whose weights are rearranged.
            rounds: Rounds of both suppressions.
        """
        super().__init__()
        self.pyramid, self.top_down, self.strides = head.pyramid, head.top_down, head.strides
        self.proposals = Proposals(head.rpn, head.strides, rounds)
        self.boxes = BoxHead(head.roi_heads, rounds)
        self.masks = MaskHead(head.roi_heads) if head.spec.masks else None

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, ...]:
        """Compute boxes (B, N, 4), scores (B, N), labels (B, N) int32 and, for instances, masks (B, N, 28, 28)."""
        levels = self.levels(maps)
        proposals, valid = self.proposals(levels, height, width)
        pyramid = RoiPyramid(levels[:LEVELS], self.strides[:LEVELS], LEVEL_SIDES)
        boxes, scores, labels = self.boxes(pyramid, proposals, valid, height, width)
        masks = [] if self.masks is None else [self.masks(pyramid, boxes, labels, scores)]
        return boxes, scores, labels.int(), *masks

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Compute the maps of the five levels, finest first."""
        levels: list[Tensor] = self.top_down(self.pyramid(maps))
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def suppressions(self) -> tuple[Suppression, Suppression]:
        """Return the suppression of proposals and that of detections."""
        return self.proposals.suppress, self.boxes.suppress


class Proposals(nn.Module):
    """Region proposal network: maps to the best boxes of every level after suppression."""

    def __init__(self, rpn: Any, strides: Sequence[float], rounds: int) -> None:
        """Take over the layers of a torchvision `RegionProposalNetwork`."""
        super().__init__()
        self.head: nn.Module = rpn.head
        bases = [torch.as_tensor(one, dtype=torch.float32) for one in rpn.anchor_generator.cell_anchors]
        self.bases: Tensor
        self.register_buffer("bases", torch.stack(bases))  # (L, A, 4)
        self.coder, self.strides = rpn.box_coder, tuple(strides)
        self.candidates, self.count = rpn.pre_nms_top_n(), rpn.post_nms_top_n()
        self.suppress = Suppression(rpn.nms_thresh, rounds)

    def forward(self, levels: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return boxes (B, R, 4) xyxy in input pixels, the best first, and which are proposals, (B, R) of 1 and 0."""
        outputs = zip(*self.head(list(levels)), self.bases, self.strides, strict=True)
        levels_best = zip(*(self._level(*one) for one in outputs), strict=True)
        logits, deltas, anchors = (torch.stack(one, dim=1) for one in levels_best)
        boxes = decode_boxes(deltas, anchors, self.coder.weights, self.coder.bbox_xform_clip)  # (B, L, k, 4)
        boxes, scores = clip_boxes(boxes, height, width), logits.sigmoid()
        kept = self.suppress(boxes, has_area(boxes, MIN_PROPOSAL_SIDE))
        ranked = torch.where(kept > 0, scores, -1.0).flatten(1)
        best, index = ranked.topk(min(self.count, len(levels) * self.candidates), dim=1)
        valid = (best >= 0).float()
        return gather_rows(boxes.flatten(1, 2), index) * valid[..., None], valid

    def _level(self, logits: Tensor, deltas: Tensor, bases: Tensor, stride: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, k), deltas (B, k, 4) and anchors (B, k, 4) of the k best anchors of a level.

        Each level is filled up by k anchors without area, so that there are k of them at any size.
        """
        extra = self.candidates
        anchors = F.pad(level_anchors(bases, logits.shape[2], logits.shape[3], stride), (0, 0, 0, extra))
        logits = F.pad(logits.permute(0, 2, 3, 1).flatten(1), (0, extra), value=LOWEST)  # (B, h * w * A + k)
        deltas = torch.unflatten(deltas, 1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, h * w * A, 4)
        best, index = logits.topk(extra, dim=1)
        return best, gather_rows(F.pad(deltas, (0, 0, 0, extra)), index), F.embedding(index, anchors)


class BoxHead(nn.Module):
    """Classes and boxes of proposals, and the detections among them."""

    def __init__(self, roi_heads: Any, rounds: int) -> None:
        """Take over the layers of a torchvision `RoIHeads`."""
        super().__init__()
        self.side: int = roi_heads.box_roi_pool.output_size[0]
        self.fc6: nn.Module = roi_heads.box_head.fc6
        self.fc7: nn.Module = roi_heads.box_head.fc7
        first: Any = self.fc6.layer if isinstance(self.fc6, CastLayer) else self.fc6
        # Samples are in the order (bin, channel), inputs of the layer in the order (channel, bin).
        weight: Tensor = torch.unflatten(first.weight.data, 1, (-1, self.side**2))
        first.weight.data = weight.transpose(1, 2).flatten(1).contiguous()
        self.scores: nn.Linear = roi_heads.box_predictor.cls_score
        self.deltas: nn.Module = roi_heads.box_predictor.bbox_pred
        self.classes: int = self.scores.out_features - 1
        self.coder, self.threshold = roi_heads.box_coder, roi_heads.score_thresh
        self.count: int = roi_heads.detections_per_img
        self.suppress = Suppression(roi_heads.nms_thresh, rounds)

    def forward(
        self, pyramid: RoiPyramid, proposals: Tensor, valid: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (B, N, 4), scores (B, N) and class numbers (B, N) int64 of detections, the best first.

        Empty slots are 0.
        """
        features = pyramid.align(proposals, self.side).flatten(2)  # (B, R, side * side * C)
        features = self.fc7(self.fc6(features).relu()).relu()
        scores = self.scores(features).softmax(dim=-1)[..., 1:] * valid[..., None]
        deltas = torch.unflatten(self.deltas(features), 2, (-1, 4))[:, :, 1:].flatten(1, 2)  # (B, R * K, 4)
        ranked = (scores * (scores > self.threshold)).flatten(1)  # (B, R * K)
        proposal, label = self._numbers(proposals.shape[1], ranked.device)
        best, index = ranked.topk(candidates(proposals.shape[1], len(proposal)), dim=1)  # (B, M)
        chosen, labels = gather_rows(proposals, proposal[index]), label[index]
        boxes = decode_boxes(gather_rows(deltas, index), chosen, self.coder.weights, self.coder.bbox_xform_clip)
        boxes = clip_boxes(boxes, height, width)
        kept = self.suppress(boxes, (best > 0) * has_area(boxes, MIN_BOX_SIDE), labels)
        best, index = (best * kept).topk(min(self.count, best.shape[1]), dim=1)  # (B, N)
        used = best > 0
        boxes, labels = gather_rows(boxes, index) * used[..., None], labels.gather(1, index) * used
        missing = self.count - best.shape[1]
        if missing > 0:  # fewer pairs of a proposal and a class than slots
            boxes, best, labels = (
                F.pad(boxes, (0, 0, 0, missing)),
                F.pad(best, (0, missing)),
                F.pad(labels, (0, missing)),
            )
        return boxes, best, labels

    def _numbers(self, proposals: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the number of the proposal and that of the class of each candidate, (R * K,) each."""
        number = torch.arange(proposals, device=device)[:, None].expand(-1, self.classes)
        return number.flatten(), torch.arange(self.classes, device=device).repeat(proposals)


def candidates(proposals: int, pairs: int) -> int:
    """Return the number of pairs of a proposal and a class that suppression takes: two for each proposal.

    The scores of all classes of a proposal add up to 1 at most, so few of them are above the threshold.
    """
    return min(max(MIN_CANDIDATES, 2 * proposals), MAX_CANDIDATES, pairs)


class MaskHead(nn.Module):
    """Masks of detections."""

    def __init__(self, roi_heads: Any) -> None:
        """Take over the layers of a torchvision `RoIHeads`."""
        super().__init__()
        self.side: int = roi_heads.mask_roi_pool.output_size[0]
        self.convolutions: nn.Module = roi_heads.mask_head
        self.expand = expand_positions(roi_heads.mask_predictor.conv5_mask)
        logits = roi_heads.mask_predictor.mask_fcn_logits
        self.weight = nn.Parameter(logits.weight.data.flatten(1)[1:].clone())  # (K, C)
        self.bias = nn.Parameter(logits.bias.data[1:, None].clone())  # (K, 1)

    def forward(self, pyramid: RoiPyramid, boxes: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        """Return the probabilities of the mask of each detection's class, (B, N, 2 * side, 2 * side)."""
        count, side = boxes.shape[1], self.side
        features = pyramid.align(boxes, self.side).flatten(0, 1).transpose(1, 2)  # (B * N, C, side * side)
        features = self.expand(self.convolutions(torch.unflatten(features, 2, (side, side)))).relu()
        features = torch.unflatten(features.flatten(2), 1, (4, -1))  # (B * N, 4, C, side * side)
        # Only the logits of one class are computed.
        labels = labels.flatten()
        weight, bias = F.embedding(labels, self.weight), F.embedding(labels, self.bias)
        masks: Tensor = (weight[:, None, None] @ features + bias[:, None, None]).sigmoid()  # (B * N, 4, 1, side * side)
        masks = masks.reshape(-1, 2, 2, side, side).permute(0, 3, 1, 4, 2)
        return masks.reshape(-1, count, 2 * side, 2 * side) * (scores > 0)[..., None, None]


def expand_positions(layer: nn.Module) -> nn.Module:
    """Return a transposed convolution of 2 x 2 and stride 2 as a 1 x 1 convolution to (B, 4 * C, h, w).

    Channels are those of the upper left, upper right, lower left and lower right quarter of each position, so that
    nothing is moved before the classifier has made one value of the channels.
    """
    inner: Any = layer.layer if isinstance(layer, CastLayer) else layer
    inputs, outputs = inner.weight.shape[:2]
    convolution = nn.Conv2d(inputs, 4 * outputs, 1)
    convolution.weight.data = inner.weight.data.permute(2, 3, 1, 0).reshape(-1, inputs, 1, 1).contiguous()
    assert convolution.bias is not None
    convolution.bias.data = inner.bias.data.repeat(4)
    return CastLayer(convolution, layer.dtype) if isinstance(layer, CastLayer) else convolution
