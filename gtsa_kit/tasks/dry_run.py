"""Length, speed, memory and disk space of a fine-tuning run, measured on its first steps, of which nothing is kept."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.data.batches import resolve_workers
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.hardware import peak_memory
from gtsa_kit.tasks.build import build_state
from gtsa_kit.tasks.finetune import forward_backward, update_weights
from gtsa_kit.tasks.frozen import FrozenBatches
from gtsa_kit.tasks.frozen_start import StoppedError
from gtsa_kit.tasks.run import LESS_MEMORY, launch, read_start
from gtsa_kit.tasks.start import make_spec
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import validation_images
from gtsa_kit.training.checkpoint import checkpoint_bytes
from gtsa_kit.training.estimate import device_memory
from gtsa_kit.training.guards import fit_or_stop, memory_errors, on_first_process
from gtsa_kit.training.measured_steps import StepsEstimate, measure_steps
from gtsa_kit.training.optim import set_hyperparameters
from gtsa_kit.training.trainer import RunFailedError

ENCODED_IMAGES = 16
"""Training images, and at most as many validation images, whose features a dry run computes."""


@dataclass(frozen=True, kw_only=True)
class FinetuneEstimate(StepsEstimate):
    """Estimate of a whole fine-tuning run."""

    config: FinetuneConfig
    """Settings without auto."""
    model: str
    """Name of the encoder."""
    classes: int
    images: int
    """Training images."""
    validation_images: int
    skipped: int
    """Files that are not used."""
    feature_seconds: float
    """Seconds to compute the features of a frozen encoder, 0 if all layers are trained."""
    feature_bytes: int
    """Size of their file."""
    peak_bytes: int
    """Largest memory so far: of the GPU, else of this process."""
    available_bytes: int
    """Memory that was left then."""
    model_bytes: int
    """Size of model.safetensors, and of the encoder's weights at the start if it is frozen."""

    @property
    def seconds(self) -> float:
        """Seconds of the features and of all steps; scores, checkpoints and pictures come on top."""
        return self.feature_seconds + self.step_seconds

    @property
    def disk_bytes(self) -> int:
        """Largest size of the run folder."""
        train = self.config.train
        every = min(train.checkpoint_every, resolved(train.eval_every))
        files = self.file_bytes(every, train.keep_checkpoints, train.log_every)
        return self.model_bytes + self.feature_bytes + files


def dry_run(config: FinetuneConfig, callback: FinetuneCallback | None = None) -> FinetuneEstimate | None:
    """Train a few steps of a run, and discard everything; return None if the callback stopped it.

    Of a frozen encoder the features of `ENCODED_IMAGES` images are computed.

    Raises:
        ValueError: Settings, weights or labeled images cannot be used.
        RunFailedError: A step fails.
    """
    callback = callback or FinetuneCallback()
    config = config.model_copy(update={"train": config.train.model_copy(update={"features": ""})})
    fabric = launch(config)
    config, data, start, notices = on_first_process(fabric, lambda: read_start(config, callback, fabric))
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gtsa-dry-run-") as folder, memory_errors(lambda: LESS_MEMORY):
        inputs = config, Path(folder), data, fabric, start, make_spec(config, data), None, callback, notices
        try:
            state = build_state(*inputs, encoded_images=ENCODED_IMAGES)
        except StoppedError:
            return None
        except ImageError as error:
            raise RunFailedError(f"{error}; it could be read before; repair it") from error
        callback.on_train_start(state)
        try:
            finished = fit_or_stop(lambda: _train_steps(state, callback, seconds), lambda: None)
            return _estimate(state, seconds) if finished else None
        finally:
            state.batches.close()


def _train_steps(state: FinetuneState, callback: FinetuneCallback, seconds: list[float]) -> bool:
    """Train the first steps, and append the seconds of those that count; return False if the callback stopped it."""
    train, device = state.config.train, state.fabric.device
    workers = 0 if train.freeze else resolve_workers(train.workers, device.type, state.fabric.world_size)
    state.wrapped.train()

    def train_step() -> None:
        set_hyperparameters(state.optimizer, float(state.lr[state.step]), state.config.optim.weight_decay)
        forward_backward(state)
        update_weights(state)

    measured = measure_steps(train_step, state.steps, workers, device, callback)
    seconds += measured or []
    return measured is not None


def _estimate(state: FinetuneState, seconds: list[float]) -> FinetuneEstimate:
    """Build the estimate from the seconds of the measured steps."""
    device, validation = state.fabric.device, len(validation_images(state.data))
    feature_seconds, feature_bytes = _features(state, validation)
    frozen_bytes = sum(tensor.nbytes for tensor in state.model.encoder.vit.state_dict().values())
    model_bytes = sum(tensor.nbytes for tensor in state.model.state_dict().values())
    return FinetuneEstimate(
        config=state.config,
        model=state.model.encoder.architecture.name,
        device=str(device),
        classes=state.model.spec.classes,
        images=state.images,
        validation_images=validation,
        skipped=len(state.data.skipped),
        steps=state.steps,
        images_per_step=state.batch,
        measured_steps=len(seconds),
        seconds_per_step=sum(seconds) / len(seconds),
        feature_seconds=feature_seconds,
        feature_bytes=feature_bytes,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory(),
        available_bytes=device_memory(device),
        checkpoint_bytes=checkpoint_bytes(state.checkpoint_content()),
        model_bytes=model_bytes + (frozen_bytes if state.config.train.freeze else 0),
    )


def _features(state: FinetuneState, validation: int) -> tuple[float, int]:
    """Return seconds and bytes of the features of all images, from those that were computed."""
    if state.val_features is None:
        return 0.0, 0
    assert isinstance(state.batches, FrozenBatches)
    seconds, size = 0.0, 0.0
    for part, items in (
        (state.batches.features, state.config.train.views * state.images),
        (state.val_features, validation),
    ):
        seconds += items * part.seconds_per_item
        size += items * part.file.bytes_of_all / len(part.items)
    return seconds, round(size)
