"""Inputs of a task model: the size of an image's input, and its pixels; the same in training, scores and prediction."""

import numpy as np

from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import InputImage, image_size
from gtsa_kit.models.task_spec import TaskSpec


def input_policy(spec: TaskSpec, encoder: Encoder) -> ResizePolicy:
    """Return the rule for the size of inputs: by the short side of the spec, else the square of the preprocessing."""
    patch, side = encoder.architecture.patch, encoder.preprocessing.size
    if spec.short_side is None:
        return ResizePolicy("fixed", (side, side), crop_from=spec.crop_from, patch=patch)
    sides = (spec.short_side, spec.short_side)
    return ResizePolicy("short-side", sides, long_side=spec.long_side, patch=patch)


def image_input(image: InputImage, policy: ResizePolicy, encoder: Encoder) -> np.ndarray:
    """Convert an upright RGB image, or samples (H, W, N), to the (N, h, w) float32 input of the encoder."""
    region = policy.cut(image, encoder.preprocessing.interpolation)
    return encoder.preprocessing(region, policy(*image_size(image)))
