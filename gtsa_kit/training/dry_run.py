"""Length, speed, memory and disk space of a pretraining run, measured on its first steps, of which nothing is kept."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from gtsa_kit.config import RunConfig
from gtsa_kit.data.batches import resolve_workers
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_files import ImageList, list_images
from gtsa_kit.training.checkpoint import checkpoint_bytes
from gtsa_kit.training.estimate import Estimate
from gtsa_kit.training.guards import fit_or_stop, memory_errors, on_first_process
from gtsa_kit.training.measured_steps import StepsEstimate, measure_steps
from gtsa_kit.training.optim import set_hyperparameters
from gtsa_kit.training.prepare import check_enough_readable, keep_readable
from gtsa_kit.training.run import less_memory, make_train_state, set_up
from gtsa_kit.training.start import Start
from gtsa_kit.training.state import TrainState
from gtsa_kit.training.trainer import TrainerCallback, forward_backward, update_weights


@dataclass(frozen=True, kw_only=True)
class RunEstimate(StepsEstimate):
    """Estimate of a whole run."""

    config: RunConfig
    """Settings, with those resolved that were auto."""
    images: int
    """Readable images."""
    unreadable: tuple[Entry, ...]
    """Unreadable images, which the run skips; of a large folder, those in the sample that a run checks."""
    memory: Estimate
    encoder_bytes: int
    """Size of encoder.safetensors."""

    @property
    def disk_bytes(self) -> int:
        """Largest size of the run folder."""
        train = self.config.train
        return self.encoder_bytes + self.file_bytes(train.checkpoint_every, train.keep_checkpoints, train.log_every)


def dry_run(config: RunConfig, callback: TrainerCallback, start: Start | None = None) -> RunEstimate | None:
    """Train a few steps of a run, and discard everything; return None if the callback stopped it.

    Args:
        config: Settings of the run.
        callback: Training callback.
        start: Encoder that the run starts from; None opens that of the settings.

    Raises:
        ValueError: Settings or images cannot be used, or the run does not fit into memory.
        RunFailedError: Too many images are unreadable, or a step fails.
    """
    config, fabric, opened = set_up(config, start)
    assert opened is not None, "a new run has an encoder to start from"
    listed = on_first_process(fabric, lambda: _readable(config, callback))
    with tempfile.TemporaryDirectory(prefix="gtsa-dry-run-") as folder:
        state = make_train_state(config, Path(folder), listed, fabric, opened, None)
        callback.on_train_start(state.schedule, config, 0, str(fabric.device))
        seconds: list[float] = []
        try:
            with memory_errors(lambda: less_memory(config)):
                finished = fit_or_stop(lambda: _train_steps(state, callback, seconds), lambda: None)
            return _estimate(state, seconds) if finished else None
        finally:
            state.batches.close()


def _readable(config: RunConfig, callback: TrainerCallback) -> ImageList:
    """List the images and leave out the unreadable ones, as a run does."""
    kept = keep_readable(list_images(config.data, channels=not config.channels.is_rgb), config, callback)
    check_enough_readable(kept, config, None)
    return kept


def _train_steps(state: TrainState, callback: TrainerCallback, seconds: list[float]) -> bool:
    """Train the first steps, and append the seconds of those that count; return False if the callback stopped it."""
    train, device = state.config.train, state.fabric.device
    workers = resolve_workers(train.workers, device.type, state.fabric.world_size)
    state.wrapped.train()

    def train_step() -> None:
        values = state.schedules.at(state.step)
        set_hyperparameters(state.optimizer, values["lr"], values["weight_decay"])
        forward_backward(state, values)
        update_weights(state, values)

    measured = measure_steps(train_step, state.schedule.steps, workers, device, callback)
    seconds += measured or []
    return measured is not None


def _estimate(state: TrainState, seconds: list[float]) -> RunEstimate:
    """Build the estimate from the seconds of the measured steps."""
    assert state.estimate is not None, "a new run has steps"
    encoder = state.model.teacher.encoder.state_dict()
    return RunEstimate(
        config=state.config,
        device=str(state.fabric.device),
        images=len(state.images.entries),
        unreadable=tuple(state.images.unreadable),
        steps=state.schedule.steps,
        images_per_step=state.schedule.batch,
        measured_steps=len(seconds),
        seconds_per_step=sum(seconds) / len(seconds),
        memory=state.estimate,
        checkpoint_bytes=checkpoint_bytes(state.checkpoint_content() | {"optimizer": state.optimizer.state_dict()}),
        encoder_bytes=sum(tensor.nbytes for tensor in encoder.values()),
    )
