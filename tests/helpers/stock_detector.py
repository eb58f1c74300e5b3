"""torchvision's own MaskRCNN or FasterRCNN with the weights of a task model: the reference of detectors.

It guesses strides from sizes, so it is a reference for patches of 16 pixels on grids of multiples of 4 only.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from gtsa_kit.models.detector import DetectorHead
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.task_spec import LEVELS


class Backbone(nn.Module):
    """Encoder, strided pyramid and torchvision's feature pyramid network."""

    def __init__(self, model: TaskModel, head: DetectorHead) -> None:
        super().__init__()
        self.model, self.pyramid, self.out_channels = model, head.pyramid, head.spec.channels
        width = model.encoder.architecture.width
        self.fpn = FeaturePyramidNetwork([width] * LEVELS, head.spec.channels, LastLevelMaxPool())
        for i in range(LEVELS):
            self.fpn.inner_blocks[i][0].load_state_dict(head.top_down.lateral[i].state_dict())
            self.fpn.layer_blocks[i][0].load_state_dict(head.top_down.output[i].state_dict())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the five levels by torchvision's names."""
        maps = self.pyramid(self.model.features(images))
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(i), level) for i, level in enumerate(maps)))
        return levels


def stock_detector(model: TaskModel) -> FasterRCNN:
    """Build the reference of a task model in evaluation mode; it takes a list of normalized images (3, H, W)."""
    head = model.head
    assert isinstance(head, DetectorHead)
    spec, classes = head.spec, model.spec.classes + 1
    kind, options = FasterRCNN, {}
    if spec.masks:
        kind = MaskRCNN
        options["mask_head"] = MaskRCNNHeads(spec.channels, (spec.channels,) * 4, 1)
        options["mask_predictor"] = MaskRCNNPredictor(spec.channels, spec.channels, classes)
    stock = kind(
        Backbone(model, head),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator([(x,) for x in spec.anchor_sizes], [spec.anchor_ratios] * 5),
        rpn_pre_nms_top_n_train=spec.train_proposals,
        rpn_post_nms_top_n_train=spec.train_proposals,
        rpn_pre_nms_top_n_test=spec.pre_nms,
        rpn_post_nms_top_n_test=spec.proposals,
        rpn_nms_thresh=spec.rpn_nms,
        box_head=TwoMLPHead(spec.channels * 49, spec.box_channels),
        box_predictor=FastRCNNPredictor(spec.box_channels, classes),
        box_score_thresh=spec.score_threshold,
        box_nms_thresh=spec.nms,
        box_detections_per_img=spec.max_detections,
        box_batch_size_per_image=spec.train_boxes,
        **options,
    )
    stock.transform.resize = lambda image, target=None: (image, target)
    stock.rpn.load_state_dict(head.rpn.state_dict())
    stock.roi_heads.load_state_dict(head.roi_heads.state_dict())
    return stock.eval()
