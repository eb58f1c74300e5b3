"""Opened task models: inputs of a model to logits or masks, whatever file the model comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from gtsa_kit.embedding.resize_policy import ResizePolicy, choose_resize_policy
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.runtime.load import pick_device
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.files import sha256_of
from gtsa_kit.models.task_model import MODEL, Label, Task, TaskModel, is_task_run, load_task_model

BATCH_BYTES: Final = 256 << 20
"""Memory of the logits that a call of a model returns; calls with larger logits get fewer images, at least one."""


class TaskOutput(NamedTuple):
    """Output of a task model for a batch."""

    logits: np.ndarray | None
    """Logits (B, K, H, W) of pixels or (B, K) of classes, float32; None for a model that returns masks."""
    mask: np.ndarray | None
    """Class numbers (B, H, W), uint8; None for a model that returns logits."""


class TorchTaskRunner:
    """Runner of the PyTorch model of a run folder."""

    def __init__(self, model: TaskModel, manifest: Manifest, device: torch.device) -> None:
        self.model, self.manifest, self.device = model.to(device), manifest, device
        self.provider = f"PyTorch on {device}"

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> TaskOutput:
        """Compute logits of a batch (B, 3, H, W), float32."""
        return TaskOutput(self.model(torch.from_numpy(np.array(images)).to(self.device)).cpu().numpy(), None)


@dataclass(frozen=True)
class Predictor:
    """Task model with what its predictions mean: a callable from any number of inputs to a `TaskOutput`."""

    runner: TorchTaskRunner
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
        return False

    def __call__(self, images: np.ndarray) -> TaskOutput:
        """Run inputs of one shape in batches that the model accepts, and return the outputs of all.

        Args:
            images: (B, 3, H, W) or (B, H, W, 3), as the manifest's input says.
        """
        allowed = self.manifest.range_of("batch")
        step = allowed.clamp(min(len(images), self.batch_limit(images[0].size // 3)))
        parts = [self._run_padded(images[i : i + step], allowed.min) for i in range(0, len(images), step)]
        if len(parts) == 1:
            return parts[0]
        return TaskOutput(*(_join(values) for values in zip(*parts, strict=True)))

    def batch_limit(self, pixels: int) -> int:
        """Return the number of inputs of this many pixels whose logits fit into `BATCH_BYTES`, at least one."""
        each = 4 * len(self.labels) * (pixels if self.task == "segment" else 1)
        return max(1, BATCH_BYTES // each)

    def _run_padded(self, images: np.ndarray, min_batch: int) -> TaskOutput:
        count, missing = len(images), min_batch - len(images)
        if missing <= 0:
            return self.runner(images)
        output = self.runner(np.concatenate([images, np.repeat(images[-1:], missing, 0)]))
        return TaskOutput(*(None if values is None else values[:count] for values in output))


def is_task_model(path: Path) -> bool:
    """Return whether a path is that of a task model: a run folder of `gtsa finetune`, or a file exported from one."""
    return is_task_run(path)


def open_predictor(path: Path, options: LoadOptions) -> Predictor:
    """Open a task model: a run folder of `gtsa finetune`, or a file that was exported from one.

    Raises:
        ValueError: The path holds no task model, or it can't be opened; see `gtsa_kit.load`.
    """
    if not is_task_model(path):
        raise ValueError(f"{path} is no task model; make one with: gtsa finetune")
    model = load_task_model(path)
    digest = sha256_of(path / MODEL if path.is_dir() else path)
    manifest = build_manifest(model.encoder, "pytorch", ExportOptions(), {"torch": str(torch.__version__)}, digest)
    runner = TorchTaskRunner(model, manifest, pick_device(options.device))
    return Predictor(runner, model.spec.task, model.spec.labels, model.spec.short_side, digest)


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


def _join(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [value for value in values if value is not None]
    return np.concatenate(present) if present else None
