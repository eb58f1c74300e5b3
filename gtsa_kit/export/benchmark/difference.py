"""Difference of the outputs of measured artifacts from those of a reference."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from gtsa_kit.export.comparison import NOT_FINITE
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel, encoder_of


class OutputDifference(NamedTuple):
    """Fields of `Speed` that describe the difference from the reference."""

    min_cosine: float | None = None
    max_abs: float | None = None
    agreement: float | None = None
    problem: str = ""


def reference_outputs(reference: Encoder | TaskModel, images: list[Image.Image], size: tuple[int, int]) -> np.ndarray:
    """Return the feature maps (N, D, h, w) or logits of images at a size (height, width)."""
    preprocess = encoder_of(reference).preprocessing
    prepared = [preprocess(image, size) for image in images]
    with torch.inference_mode():
        outputs = reference.eval()(torch.from_numpy(np.stack(prepared)))
    return np.asarray(outputs if isinstance(reference, TaskModel) else outputs.feature_map)


def compare_outputs(expected: np.ndarray, actual: np.ndarray, is_task: bool) -> OutputDifference:
    """Compare feature maps by the cosine of tokens; logits and masks by the best class."""
    finite = np.isfinite(expected).all() and np.isfinite(actual).all()
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
