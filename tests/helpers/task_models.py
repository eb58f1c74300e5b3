"""Small task models with random weights of real variance, and their run folders."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torchvision.models.detection.image_list import ImageList

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.detector import DetectorHead
from gtsa_kit.models.detector_spec import DetectorSpec
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.eomt import EomtHead
from gtsa_kit.models.run_folder import MODEL
from gtsa_kit.models.task_model import TaskModel, save_task_model
from gtsa_kit.models.task_spec import Label, TaskSpec, head_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gtsa_kit.models.architecture import Arch, Architecture

LABELS = (
    *(Label(0, "sky", (70, 130, 180)), Label(3, "road", (128, 64, 128))),
    *(Label(7, "car", (0, 0, 142)), Label(8, "tree", (107, 142, 35)), Label(12, "fence", (190, 153, 153))),
)
"""Five classes; pixel values are not class numbers."""
SMALL_CHANNELS = 32
"""Channels of the test models' heads."""


SMALL_DETECTOR = DetectorSpec(
    channels=SMALL_CHANNELS,
    box_channels=64,
    anchor_sizes=(8, 16, 32, 64, 128),
    pre_nms=200,
    proposals=50,
    max_detections=30,
    train_proposals=200,
    train_boxes=64,
)
"""Head of the test models that detect."""
PATCH_14 = replace(
    ARCHITECTURES["vit_test"], name="vit_test14", timm_kwargs=ARCHITECTURES["vit_test"].timm_kwargs | {"patch_size": 14}
)
"""vit_test with patches of 14 pixels."""


def task_spec(kind: str, arch: "Arch" = "vit_test", final_norm: bool = True) -> TaskSpec:
    """Return the spec of one of `TASKS` or `DETECTORS`, or "eomt" for pixels, or "eomt instances"."""
    layers = head_layers(ARCHITECTURES[arch], "segment", "fpn")
    if kind in DETECTORS:
        detector = replace(SMALL_DETECTOR, masks=kind == "mask-rcnn")
        return TaskSpec("detect", LABELS, kind, layers, final_norm, detector=detector)
    if kind == "eomt instances":
        layers = head_layers(ARCHITECTURES[arch], "detect", "eomt")
        detector = DetectorSpec(score_threshold=0.05, max_detections=30)
        return TaskSpec("detect", LABELS, "eomt", layers, False, detector=detector, blocks=1)
    if kind == "eomt":
        return TaskSpec("segment", LABELS, "eomt", head_layers(ARCHITECTURES[arch], "segment", "eomt"), False, blocks=1)
    if kind == "classify":
        return TaskSpec("classify", LABELS, "linear", final_norm=final_norm)
    if kind == "linear":
        return TaskSpec("segment", LABELS, "linear", final_norm=final_norm)
    pyramid = {"fpn flat": "flat", "fpn strided": "strided"}[kind]
    return TaskSpec("segment", LABELS, "fpn", layers, final_norm, pyramid, SMALL_CHANNELS)  # type: ignore[arg-type]


TASKS = ("linear", "fpn flat", "fpn strided", "classify")
"""Kinds of task models that give logits."""
DETECTORS = ("mask-rcnn", "faster-rcnn")
"""Kinds of task models that give detections: instances, and boxes alone."""


def random_task_model(spec: TaskSpec, arch: "Arch | Architecture" = "vit_test", seed: int = 0) -> TaskModel:
    """Build a model in evaluation mode; initial biases, norms and statistics are too regular to reveal errors."""
    torch.manual_seed(seed)
    model = TaskModel(Encoder(arch), spec).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += torch.randn_like(value) * (0.3 if value.ndim < 2 else 0.02)
        for name, buffer in model.head.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
        if isinstance(model.head, DetectorHead):
            _spread_detections(model, model.head)
        elif isinstance(model.head, EomtHead):
            _spread_queries(model, model.head)
        else:
            _spread_logits(model)
    return model


def save_random_task(folder: Path, spec: TaskSpec, arch: "Arch | Architecture" = "vit_test", seed: int = 0) -> Path:
    """Write the files of a random model's run; return the path of its weights."""
    save_task_model(folder, random_task_model(spec, arch, seed), {"steps": 0})
    return folder / MODEL


def _spread_logits(model: TaskModel) -> None:
    """Scale the last layer so that logits vary by several units, and no class is always the best."""
    noise = torch.nn.functional.interpolate(torch.randn(4, 3, 12, 18), scale_factor=8, mode="bilinear")
    logits = model(noise).transpose(0, 1).flatten(1)  # (K, N)
    classifier, means = model.head.classifier, logits.mean(dim=1)
    factor = 3 / (logits - means[:, None]).std()
    classifier.bias.copy_((classifier.bias - means) * factor)
    classifier.weight *= factor


def _spread_queries(model: TaskModel, head: EomtHead) -> None:
    """Scale the last layers so that the queries choose different classes, and the masks different patches."""
    noise = torch.nn.functional.interpolate(torch.randn(4, 3, 12, 16), scale_factor=8, mode="bilinear")
    features = model.features(noise)
    head.masked.zero_()
    masks, classes = head.predictions(*features)[-1]
    head.mask_head[-1].weight *= 6 / masks.std()
    head.mask_head[-1].bias *= 6 / masks.std()
    factor, means = 3 / classes.std(), classes.mean(dim=(0, 1))
    head.classifier.bias.copy_((head.classifier.bias - means) * factor)
    head.classifier.weight *= factor
    head.classifier.bias[-1] += 8.0  # most queries are of no class, as in a trained model


def _spread_detections(model: TaskModel, head: DetectorHead) -> None:
    """Scale the last layers so that scores lie between 0 and 1 and boxes differ: most detections pass the threshold."""
    patch = model.encoder.architecture.patch
    noise = torch.nn.functional.interpolate(torch.randn(2, 3, 8, 12), size=(4 * patch, 6 * patch), mode="bilinear")
    levels = head.levels(*model.features(noise))
    rpn, boxes = head.rpn.head, head.roi_heads
    hidden = torch.cat([rpn.conv(level).flatten(2) for level in levels], 2)[..., None]
    _spread(rpn.cls_logits, hidden, 2.0)
    _spread(rpn.bbox_pred, hidden, 0.3)
    named, size = {str(i): level for i, level in enumerate(levels)}, [(4 * patch, 6 * patch)] * 2
    proposals, _ = head.rpn(ImageList(noise, size), named)
    read = boxes.box_head(boxes.box_roi_pool(named, proposals, size))
    _spread(boxes.box_predictor.cls_score, read, 3.0)
    boxes.box_predictor.cls_score.bias[0] += 8.0  # most proposals lie on the background
    _spread(boxes.box_predictor.bbox_pred, read, 1.0)
    if boxes.mask_predictor is not None:
        masks = boxes.mask_head(boxes.mask_roi_pool(named, proposals, size))
        masks = torch.relu(boxes.mask_predictor.conv5_mask(masks))
        _spread(boxes.mask_predictor.mask_fcn_logits, masks, 3.0)


def _spread(layer: "nn.Module", inputs: "Tensor", deviation: float) -> None:
    """Give the outputs of a layer a mean of 0 by channel, and a standard deviation."""
    outputs = layer(inputs).transpose(0, 1).flatten(1)  # (C, N)
    means = outputs.mean(dim=1)
    factor = deviation / (outputs - means[:, None]).std()
    layer.bias.copy_((layer.bias - means) * factor)
    layer.weight *= factor
