"""Opened task models: inputs of a model to logits or masks, whatever file the model comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np

from gtsa_kit.embedding.model import model_digest
from gtsa_kit.embedding.resize_policy import ResizePolicy, choose_resize_policy
from gtsa_kit.export import Runner, load
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.runtime.batching import predict_in_batches, select
from gtsa_kit.export.spec import MASK
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_spec import Label, Task

BATCH_BYTES: Final = 256 << 20
"""Memory of the logits that a call returns, or of a detector's maps; a call gets so few images, at least one."""

DETECTOR_VALUES: Final = 64
"""Numbers that a detector holds for each pixel of its input: the maps of its pyramid and what is computed from them."""


@dataclass(frozen=True)
class Predictor:
    """Task model with what its predictions mean: a callable from any number of inputs to a `TaskOutput`."""

    runner: Runner
    task: Task
    labels: tuple[Label, ...]
    """Classes by class number."""
    short_side: int | None
    """Short side of an input in pixels, where images keep their aspect ratio; None stretches them to a square."""
    digest: str
    """SHA-256 of the model's file."""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the model."""
        return self.runner.manifest

    @property
    def gives_mask(self) -> bool:
        """True if the model returns masks in place of logits."""
        return self.manifest.output == MASK

    def __call__(self, images: np.ndarray) -> TaskOutput:
        """Run inputs of one shape in batches that the model accepts, and return the outputs of all.

        Args:
            images: (B, N, H, W) or (B, H, W, N), as the manifest's input says.
        """
        limit = self.batch_limit(images[0].size // self.manifest.channels)
        return predict_in_batches(self.runner, images, min(len(images), limit))

    def batch_limit(self, pixels: int) -> int:
        """Return the number of inputs of this many pixels whose outputs fit into `BATCH_BYTES`, at least one."""
        values = pixels if self.task == "segment" else 1
        if self.task == "detect":
            return max(1, BATCH_BYTES // (4 * DETECTOR_VALUES * pixels))
        return max(1, BATCH_BYTES // (values if self.gives_mask else 4 * len(self.labels) * values))


def split_outputs(outputs: TaskOutput) -> list[TaskOutput]:
    """Return the outputs of each image of a batch, without the batch axis."""
    count = len(next(values for values in outputs if values is not None))
    return [select(outputs, i) for i in range(count)]


def open_predictor(path: Path, options: LoadOptions) -> Predictor:
    """Open a task model: a run folder of `gtsa finetune`, or a file that was exported from one.

    Raises:
        ValueError: The path holds no task model, or it can't be opened; see `gtsa_kit.load`.
    """
    return as_predictor(load(path, **options.arguments()), path)


def as_predictor(runner: Runner, path: Path) -> Predictor:
    """Return the predictor of an opened task model.

    Raises:
        ValueError: The model is an encoder.
    """
    manifest = runner.manifest
    if manifest.kind != "task":
        raise ValueError(f"{path} is an encoder, which gives no classes; name a run of gtsa finetune, or its export")
    labels = tuple(Label(**dict(label)) for label in manifest.labels)
    return Predictor(runner, task_of(manifest), labels, manifest.short_side, model_digest(path, runner))


def task_of(manifest: Manifest) -> Task:
    """Return the task of a task model or of a head.

    Raises:
        ValueError: There is no such task.
    """
    for task in get_args(Task):
        if manifest.task == task:
            return cast("Task", task)
    raise ValueError(f"the task {manifest.task!r} is unknown; a newer gtsa-kit may know it")


def choose_task_size(
    predictor: Predictor, size: tuple[int, int] | None = None, short_side: int | None = None, native: bool = False
) -> ResizePolicy:
    """Return the requested rule for the size of inputs; by default that of the model's training.

    Raises:
        ValueError: More than one is requested, or a size that the model does not accept.
    """
    own = size is None and short_side is None and not native
    if own and predictor.short_side is not None and not predictor.manifest.range_of("height").fixed:
        short_side = predictor.short_side
    return choose_resize_policy(predictor.manifest, size, short_side, native)
