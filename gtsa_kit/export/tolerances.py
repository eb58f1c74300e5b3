"""Tolerances of the parity gate; every tolerance is defined here, and nowhere else."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tolerance:
    """Bounds on the difference from the float32 PyTorch encoder; an artifact passes if it is within every bound."""

    max_abs: float
    """Maximum absolute difference of one number."""
    mean_abs: float
    """Maximum mean absolute difference of an output."""
    min_cosine: float
    """Minimum cosine of a patch token (of an image, for embeddings) with that of the reference."""
    neighbors: float
    """Minimum share of patch tokens with the same nearest neighbor among all others, 0 to 1."""


# Worst values that the gate measured over all cases and formats, with ViT-S/16 and random weights of real variance:
# fp32 5e-6, 5e-7, 1 - 3e-13, all neighbors; fp16 3.4e-3, 4.6e-4, 0.9999998, all; bf16 2.9e-2, 3.9e-3, 0.999986, 0.985;
# int8 0.15, 1.8e-2, 0.99976, 0.849; fp8 0.30, 4.0e-2, 0.99874, 0.813. With trained weights (a DINOv2 ViT-S, whose
# features are twice as large, and whose inputs of some layers have outliers of 30 times their root mean square):
# fp32 8e-5, 4e-6, 1, all; fp16 3.9e-2, 3.2e-3, 0.999984, 0.992; bf16 0.79, 6.0e-2, 0.9956, 0.925;
# int8 2.1, 0.30, 0.975, 0.86 with the layers of MIN_LAYER_COSINE in float32 (3.8, 0.25, 0.882, 0.731 without);
# fp8 2.4, 0.28, 0.954, 0.829. tf32 has as many mantissa bits as fp16, and needs a GPU. The bounds leave room for other
# weights and other machines' arithmetic. An error of 1% in one layer lies far above those of fp32.
TOLERANCES: Final[dict[str, Tolerance]] = {
    "fp32": Tolerance(max_abs=2e-4, mean_abs=2e-5, min_cosine=0.999999, neighbors=0.995),
    "tf32": Tolerance(max_abs=1e-1, mean_abs=1e-2, min_cosine=0.9999, neighbors=0.98),
    "fp16": Tolerance(max_abs=1e-1, mean_abs=1e-2, min_cosine=0.9999, neighbors=0.98),
    "bf16": Tolerance(max_abs=1.5, mean_abs=1e-1, min_cosine=0.99, neighbors=0.9),
    "int8": Tolerance(max_abs=4.0, mean_abs=4e-1, min_cosine=0.95, neighbors=0.75),
    "fp8": Tolerance(max_abs=4.0, mean_abs=4e-1, min_cosine=0.93, neighbors=0.75),
}


@dataclass(frozen=True)
class TaskTolerance:
    """Bounds on the difference from the float32 PyTorch task model.

    Differences of logits are relative to the standard deviation of the reference's logits from the mean of their pixel
    or image: heads give logits of any scale.
    """

    max_abs: float
    """Maximum absolute difference of one logit, in standard deviations."""
    mean_abs: float
    """Maximum mean absolute difference, in standard deviations; classes whose logits are nearer than that are tied."""
    agreement: float
    """Minimum share of pixels or images whose best class is that of the reference, or tied with it."""


# Worst values over all heads and cases, as maximum, mean and agreement. Heads with random weights of real variance:
# fp32 1e-5, 1.2e-6, all; fp16 2.9e-3, 7.5e-4, 0.99997; bf16 1.4e-2, 3.1e-3, all; int8 0.18, 3.0e-2, 0.996. A trained
# FPN head on the frozen maps of a ViT-S/14 (CamVid, 52% mIoU): fp32 4e-6, 4e-7, all; fp16 1.6e-3, 2.1e-4, all;
# bf16 3.2e-2, 3.4e-3, all; int8 8.8e-2, 1.1e-2, all, and 0.05 points of mIoU. An error of 1% in one layer of a head
# lies above the bounds of fp32.
TASK_TOLERANCES: Final[dict[str, TaskTolerance]] = {
    "fp32": TaskTolerance(max_abs=2e-4, mean_abs=2e-5, agreement=0.9999),
    "tf32": TaskTolerance(max_abs=2e-2, mean_abs=2e-3, agreement=0.995),
    "fp16": TaskTolerance(max_abs=2e-2, mean_abs=2e-3, agreement=0.995),
    "bf16": TaskTolerance(max_abs=2e-1, mean_abs=2e-2, agreement=0.98),
    "int8": TaskTolerance(max_abs=1.0, mean_abs=1e-1, agreement=0.93),
    "fp8": TaskTolerance(max_abs=1.0, mean_abs=1e-1, agreement=0.93),
}


@dataclass(frozen=True)
class DetectionTolerance:
    """Bounds on the difference from the detections of the float32 PyTorch model."""

    boxes: float
    """Maximum difference of a coordinate in input pixels."""
    scores: float
    """Maximum difference of a score; detections nearer than that to the threshold may be missing."""
    masks: float
    """Maximum difference of one probability of a mask."""
    mask_iou: float
    """Minimum intersection over union of the masks at 0.5."""
    agreement: float
    """Minimum share of detections that have a counterpart within these bounds, of both sides."""


# Largest differences of boxes, scores and masks, and lowest agreement, of vit_test detectors at sides of 64 to 96.
# Random weights of real variance: fp32 3e-5, 4e-6, 4e-6, all; fp16 5e-2, 6e-3, 9e-3, 0.982; bf16 10, 2e-2, 0.5, 0.977;
# int8 0.9, 0.18, 0.10, 0.947. Trained until the AP was 100%: fp32 1e-5, 8e-7, 5e-6, all; fp16 2e-2, 1.5e-3, 7e-3, all;
# bf16 0.1, 1.3e-2, 2e-2, all; int8 9, 0.45, 1.0, 0.857 (one of 7). An error of 1% in one layer of a head lies above the
# bounds of fp32.
DETECTION_TOLERANCES: Final[dict[str, DetectionTolerance]] = {
    "fp32": DetectionTolerance(boxes=0.05, scores=1e-4, masks=1e-3, mask_iou=0.99, agreement=0.999),
    "tf32": DetectionTolerance(boxes=1.0, scores=1e-2, masks=5e-2, mask_iou=0.97, agreement=0.98),
    "fp16": DetectionTolerance(boxes=1.0, scores=1e-2, masks=5e-2, mask_iou=0.97, agreement=0.98),
    "bf16": DetectionTolerance(boxes=4.0, scores=5e-2, masks=2e-1, mask_iou=0.9, agreement=0.9),
    "int8": DetectionTolerance(boxes=8.0, scores=1e-1, masks=4e-1, mask_iou=0.8, agreement=0.85),
    "fp8": DetectionTolerance(boxes=8.0, scores=1e-1, masks=4e-1, mask_iou=0.8, agreement=0.85),
}
MAX_FOLD_DIFFERENCE: Final = 1e-5
"""Maximum difference of features after LayerScale is folded into other layers, relative to the largest feature.

It is float32 rounding alone: 3e-6 on a trained DINOv2 ViT-S.
"""
MIN_LAYER_COSINE: Final = 0.9985
"""A linear layer stays float32 in int8 and fp8 if quantizing it alone turns a patch of the calibration images further.

Random weights have no such layer. A trained DINOv2 ViT-S has six of 48 in int8: fc1 of block 0, and fc2 of blocks 0, 2,
6, 7 and 8.
"""
