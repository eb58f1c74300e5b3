"""Detector: the head of torchvision's Faster R-CNN or Mask R-CNN on the maps of a ViT, for any patch size and grid."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from gtsa_kit.models.detections import Detections
from gtsa_kit.models.detector_spec import BOX_GRID, FINEST_LEVEL, MASK_GRID, STRIDES, DetectorSpec
from gtsa_kit.models.pyramid import StridedPyramid, TopDown
from gtsa_kit.models.task_spec import LEVELS


class DetectorHead(nn.Module):
    """Pyramid, proposals and the classification of boxes, on four maps (B, D, h, w) of a ViT.

    The parts are those of torchvision's `MaskRCNN`, and equal weights give equal detections where torchvision's guesses
    of strides are right: with patches of 16 pixels on grids of multiples of 4. Here strides are always those of the
    pyramid.
    """

    def __init__(self, width: int, classes: int, patch: int, spec: DetectorSpec) -> None:
        """Build the layers.

        Args:
            width: Channels of the maps, D.
            classes: Number of classes; the background is not counted.
            patch: Side of a patch in pixels.
            spec: Sizes and thresholds.
        """
        super().__init__()
        self.spec = spec
        self.strides = tuple(patch * stride for stride in STRIDES)
        self.pyramid = StridedPyramid(width)
        self.top_down = TopDown(width, spec.channels)
        for conv in (*self.top_down.lateral, *self.top_down.output):  # as torchvision's FeaturePyramidNetwork
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)
        self.rpn = _proposal_network(spec, self.strides)
        self.roi_heads = _roi_heads(spec, classes + 1, self.strides[:LEVELS])

    def forward(self, *maps: Tensor, image_size: tuple[int, int]) -> Detections:
        """Detect objects in images of one size.

        Args:
            maps: Maps of four blocks, (B, D, h, w) each.
            image_size: (height, width) of the images in pixels.
        """
        assert not self.training, "losses are computed in training"
        results, _ = self._run(maps, [image_size] * len(maps[0]), None)
        return _fill_slots(results, self.spec)

    def losses(
        self, *maps: Tensor, image_sizes: Sequence[tuple[int, int]], targets: Iterable[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses of training.

        Args:
            maps: Maps of four blocks, (B, D, h, w) each; images are padded below and on the right to one size.
            image_sizes: (height, width) of each image without its padding.
            targets: Objects of each image: `boxes` (N, 4) float32 x0, y0, x1, y1 in pixels; `labels` (N,) int64, the
                class number plus 1; and with masks `masks` (N, H, W) uint8.

        Returns:
            Losses whose sum is minimized: loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg, and with
            masks loss_mask; float32.
        """
        assert self.training, "detections are computed in evaluation mode"
        _, losses = self._run(maps, image_sizes, [dict(target) for target in targets])
        return losses

    def levels(self, *maps: Tensor) -> list[Tensor]:
        """Compute the maps (B, C, h_i, w_i) of the five levels in float32, finest first."""
        levels: list[Tensor] = [level.float() for level in self.top_down(self.pyramid(maps))]
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]

    def _run(
        self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the detections of each image, and in training the losses."""
        named = {str(i): level for i, level in enumerate(self.levels(*maps))}
        images = ImageList(named["0"], list(sizes))  # only its sizes are used
        proposals, proposal_losses = self.rpn(images, named, targets)
        results, box_losses = self.roi_heads(named, proposals, images.image_sizes, targets)
        return results, {**box_losses, **proposal_losses}


class ExactAnchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors at the strides of the pyramid; torchvision divides the image by the map and drops the rest."""

    def __init__(self, spec: DetectorSpec, strides: Sequence[float]) -> None:
        super().__init__(tuple((size,) for size in spec.anchor_sizes), (spec.anchor_ratios,) * len(strides))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors (A, 4) float32 of every image: levels, rows, columns and ratios in this order."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        sizes = [list(feature_map.shape[-2:]) for feature_map in feature_maps]
        steps = [[torch.full((), stride, device=device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors(sizes, steps))
        return [anchors] * len(image_list.image_sizes)


class Float32RPNHead(RPNHead):  # type: ignore[misc]
    """Objectness and shifts of anchors, float32 in mixed precision too."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map the levels to logits (B, A, h, w) and shifts (B, 4A, h, w)."""
        logits, shifts = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in shifts]


class Float32BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """Classes and shifts of boxes, float32 in mixed precision too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, C) to logits (R, K + 1) and shifts (R, 4K + 4)."""
        logits, shifts = super().forward(x)
        return logits.float(), shifts.float()


class Float32MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """Masks of boxes, float32 in mixed precision too."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, 14, 14) to logits (R, K + 1, 28, 28)."""
        logits: Tensor = super().forward(x)
        return logits.float()


def _proposal_network(spec: DetectorSpec, strides: Sequence[float]) -> RegionProposalNetwork:
    """Build torchvision's region proposal network with its default sampling."""
    return RegionProposalNetwork(
        ExactAnchors(spec, strides),
        Float32RPNHead(spec.channels, len(spec.anchor_ratios)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": spec.train_proposals, "testing": spec.pre_nms},
        post_nms_top_n={"training": spec.train_proposals, "testing": spec.proposals},
        nms_thresh=spec.rpn_nms,
    )


def _roi_heads(spec: DetectorSpec, classes: int, strides: Sequence[float]) -> RoIHeads:
    """Build torchvision's heads for boxes and masks with its default sampling; the background is one of `classes`."""
    channels = spec.channels
    masks: dict[str, Any] = {}
    if spec.masks:
        masks["mask_roi_pool"] = _exact_roi_align(MASK_GRID, strides)
        masks["mask_head"] = MaskRCNNHeads(channels, (channels,) * 4, 1)
        masks["mask_predictor"] = Float32MaskPredictor(channels, channels, classes)
    return RoIHeads(
        _exact_roi_align(BOX_GRID, strides),
        TwoMLPHead(channels * BOX_GRID**2, spec.box_channels),
        Float32BoxPredictor(spec.box_channels, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=spec.train_boxes,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=spec.score_threshold,
        nms_thresh=spec.nms,
        detections_per_img=spec.max_detections,
        **masks,
    )


def _exact_roi_align(size: int, strides: Sequence[float]) -> MultiScaleRoIAlign:
    """Build RoIAlign with the scales of the pyramid; torchvision rounds the first image's to powers of two."""
    pool = MultiScaleRoIAlign([str(i) for i in range(len(strides))], output_size=size, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(FINEST_LEVEL, FINEST_LEVEL + len(strides) - 1)
    return pool


def _fill_slots(results: Sequence[Mapping[str, Tensor]], spec: DetectorSpec) -> Detections:
    """Return torchvision's detections of each image in a fixed number of slots, with class numbers from 0."""

    def slots(values: Tensor) -> Tensor:
        filled = values.new_zeros(spec.max_detections, *values.shape[1:])
        filled[: len(values)] = values
        return filled

    return Detections(
        torch.stack([slots(one["boxes"]) for one in results]),
        torch.stack([slots(one["scores"]) for one in results]),
        torch.stack([slots((one["labels"] - 1).int()) for one in results]),
        torch.stack([slots(one["masks"][:, 0]) for one in results]) if spec.masks else None,
    )
