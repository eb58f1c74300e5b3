"""Inference on any number of images with an artifact that accepts only some batch sizes."""

import numpy as np

from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.models.encoder import Features


def run_in_batches(runner: Runner, images: np.ndarray, max_batch: int | None = None) -> Features:
    """Run images through a runner, in batches of accepted sizes, and return the features of all.

    A last batch below the runner's minimum is filled with copies of its last image; their features are dropped.

    Args:
        runner: An opened artifact.
        images: Inputs of the runner, (B, 3, H, W) float32 or (B, H, W, 3) uint8, for any B from 1.
        max_batch: Maximum number of images in one call; the limits of the runner take precedence. Default: all.
    """
    allowed = runner.manifest.range_of("batch")
    step = allowed.clamp(max_batch or len(images))
    parts = [_run_padded(runner, images[i : i + step], allowed.min) for i in range(0, len(images), step)]
    if len(parts) == 1:
        return parts[0]
    return Features(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate([part.feature_map for part in parts]),
        {layer: np.concatenate([part.layers[layer] for part in parts]) for layer in parts[0].layers},
        None if parts[0].class_token is None else np.concatenate([part.class_token for part in parts]),
    )


def _run_padded(runner: Runner, images: np.ndarray, min_batch: int) -> Features:
    count, missing = len(images), min_batch - len(images)
    if missing <= 0:
        return runner(images)
    features = runner(np.concatenate([images, np.repeat(images[-1:], missing, 0)]))
    return select(features, slice(count))


def select(features: Features, index: int | slice) -> Features:
    """Return the features of one image, or of a range of images, of a batch."""
    layers = {layer: values[index] for layer, values in features.layers.items()}
    class_token = None if features.class_token is None else features.class_token[index]
    return Features(features.embedding[index], features.feature_map[index], layers, class_token)
