"""Difference of the outputs of measured artifacts from those of a reference."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from gtsa_kit.export.benchmark.workers import compared_values
from gtsa_kit.export.comparison import NOT_FINITE
from gtsa_kit.export.detection_comparison import DetectionArrays, match_errors
from gtsa_kit.export.spec import BOXES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import InputImage
from gtsa_kit.models.task_model import TaskModel, encoder_of


class OutputDifference(NamedTuple):
    """Fields of `Speed` that describe the difference from the reference."""

    min_cosine: float | None = None
    max_abs: float | None = None
    agreement: float | None = None
    problem: str = ""


def reference_outputs(
    reference: Encoder | TaskModel, images: Sequence[InputImage], size: tuple[int, int]
) -> np.ndarray:
    """Return the feature maps (N, D, h, w), logits or detections of images at a size (height, width)."""
    preprocess = encoder_of(reference).preprocessing
    prepared = [preprocess(image, size) for image in images]
    with torch.inference_mode():
        outputs = reference.eval()(torch.from_numpy(np.stack(prepared)))
    return np.asarray(outputs) if isinstance(outputs, torch.Tensor) else compared_values(outputs)


def compare_outputs(expected: np.ndarray, actual: np.ndarray, is_task: bool) -> OutputDifference:
    """Compare feature maps by the cosine of tokens, logits and masks by the best class, detections by counterparts."""
    finite = np.isfinite(expected).all() and np.isfinite(actual).all()
    if is_task and expected.ndim == 3 and expected.dtype == np.float32:  # a mask is uint8
        return _compare_detections(expected, actual) if finite else OutputDifference(problem=NOT_FINITE)
    if is_task:
        classes = [array if array.dtype == np.uint8 else array.argmax(axis=1) for array in (expected, actual)]
        if classes[0].shape != classes[1].shape:
            return OutputDifference(problem="other shape")
        both = expected.dtype == actual.dtype == np.float32
        max_abs = float(np.abs(expected - actual).max()) if both and finite else None
        problem = "" if finite else NOT_FINITE
        return OutputDifference(None, max_abs, float(np.mean(classes[0] == classes[1])) if finite else None, problem)
    if expected.shape != actual.shape:
        return OutputDifference(problem="other shape")
    if not finite:
        return OutputDifference(problem=NOT_FINITE)
    reference, artifact = torch.from_numpy(expected).double(), torch.from_numpy(actual).double()
    cosine = torch.cosine_similarity(reference, artifact, dim=1).min()
    return OutputDifference(float(cosine), float((reference - artifact).abs().max()))


def _compare_detections(expected: np.ndarray, actual: np.ndarray) -> OutputDifference:
    """Return the share of detections that both sides have, and the largest difference of a coordinate.

    Detections are (B, N, 6); the sides may have different numbers of slots N.
    """
    errors = []
    for one, other in zip(expected, actual, strict=True):
        first, second = (DetectionArrays(x[:, :4], x[:, 4], x[:, 5], None) for x in (one, other))
        errors += [match_errors(a, b)[BOXES][a.scores > 0] for a, b in ((first, second), (second, first))]
    boxes = np.concatenate(errors)
    paired = np.isfinite(boxes)
    if not len(boxes):
        return OutputDifference(problem="no detections")
    return OutputDifference(None, float(boxes[paired].max()) if paired.any() else None, float(paired.mean()))
