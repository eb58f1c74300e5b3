"""Inference on any number of images with an artifact that accepts only some batch sizes."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.models.outputs import Features, TaskOutput

Output = TypeVar("Output", Features, TaskOutput)


def run_in_batches(runner: Runner, images: np.ndarray, max_batch: int | None = None) -> Features:
    """Run images through the runner of an encoder, in batches of accepted sizes, and return the features of all.

    A last batch below the runner's minimum is filled with copies of its last image; their features are dropped.

    Args:
        runner: An opened artifact.
        images: Inputs of the runner, (B, N, H, W) float32 or samples (B, H, W, N), for any B from 1.
        max_batch: Maximum number of images in one call; the limits of the runner take precedence. Default: all.

    Raises:
        ValueError: The artifact is of a task model, which gives no features.
    """
    require_features(runner)
    parts: list[Features] = _run_parts(runner, images, max_batch)
    return _map_outputs(lambda *arrays: np.concatenate(arrays), *parts)


def predict_in_batches(runner: Runner, images: np.ndarray, max_batch: int | None = None) -> TaskOutput:
    """Run images through the runner of a task model, as `run_in_batches` does for an encoder.

    Raises:
        ValueError: The artifact is not of a task model.
    """
    if runner.manifest.kind != "task":
        raise ValueError("the model is an encoder, which gives no classes; name a run of gtsa finetune, or its export")
    parts: list[TaskOutput] = _run_parts(runner, images, max_batch)
    return _map_outputs(lambda *arrays: np.concatenate(arrays), *parts)


def require_features(runner: Runner) -> None:
    """Raise `ValueError` for the runner of a task model, which gives no features."""
    manifest = runner.manifest
    if manifest.kind != "encoder":
        raise ValueError(
            f"the model is fine-tuned to {manifest.task} and gives no features; name an encoder, such as the weights "
            "that it was fine-tuned from"
        )


def _run_parts(runner: Runner, images: np.ndarray, max_batch: int | None) -> list[Any]:
    allowed = runner.manifest.range_of("batch")
    step = allowed.clamp(max_batch or len(images))
    return [_run_padded(runner, images[i : i + step], allowed.min) for i in range(0, len(images), step)]


def _run_padded(runner: Runner, images: np.ndarray, min_batch: int) -> Any:
    count, missing = len(images), min_batch - len(images)
    if missing <= 0:
        return runner(images)
    return select(runner(np.concatenate([images, np.repeat(images[-1:], missing, 0)])), slice(count))


def select(outputs: Output, index: int | slice) -> Output:
    """Return the outputs of one image, or of a range of images, of a batch."""
    return _map_outputs(lambda array: array[index], outputs)


def _map_outputs(function: Callable[..., np.ndarray], *parts: Output) -> Output:
    """Apply a function to the arrays of one name of all parts."""
    values: dict[str, Any] = {}
    for name, first in parts[0]._asdict().items():
        arrays = [getattr(part, name) for part in parts]
        if isinstance(first, dict):
            values[name] = {key: function(*(array[key] for array in arrays)) for key in first}
        else:
            values[name] = None if first is None else function(*arrays)
    return type(parts[0])(**values)
