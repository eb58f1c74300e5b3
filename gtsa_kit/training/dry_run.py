"""Length, speed, memory and disk space of a run, measured on its first steps, of which nothing is kept."""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from gtsa_kit.config import RunConfig
from gtsa_kit.data.batches import resolve_workers
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_files import ImageList, list_images
from gtsa_kit.training.checkpoint import checkpoint_bytes
from gtsa_kit.training.estimate import Estimate
from gtsa_kit.training.guards import fit_or_stop, memory_errors, on_first_process
from gtsa_kit.training.optim import set_hyperparameters
from gtsa_kit.training.prepare import check_enough_readable, keep_readable
from gtsa_kit.training.run import less_memory, make_train_state, set_up
from gtsa_kit.training.start import Start
from gtsa_kit.training.state import TrainState
from gtsa_kit.training.trainer import TrainerCallback, forward_backward, update_weights

MEASURED_STEPS = 3
"""Least number of steps that are measured; more where several workers load, so that each is waited for."""
ROW_BYTES, CHECKPOINT_BYTES, FIXED_BYTES = 2_000, 200_000, 2_000_000
"""Bytes of logs for a logged step, of pictures for a checkpoint, and of the report, the curves and the settings."""


@dataclass(frozen=True)
class RunEstimate:
    """Estimate of a whole run."""

    config: RunConfig
    """Settings, with those resolved that were auto."""
    device: str
    images: int
    """Readable images."""
    unreadable: tuple[Entry, ...]
    """Unreadable images, which the run skips; of a large folder, those in the sample that a run checks."""
    steps: int
    """Optimizer steps of the run."""
    images_per_step: int
    measured_steps: int
    """Steps that `seconds_per_step` is the mean of."""
    seconds_per_step: float
    memory: Estimate
    checkpoint_bytes: int
    """Size of one checkpoint."""
    encoder_bytes: int
    """Size of encoder.safetensors."""

    @property
    def images_per_second(self) -> float:
        """Images per second, with the time of loading them."""
        return self.images_per_step / self.seconds_per_step

    @property
    def seconds(self) -> float:
        """Seconds of all steps; checkpoints and the check of the images come on top."""
        return self.steps * self.seconds_per_step

    @property
    def disk_bytes(self) -> int:
        """Largest size of the run folder: a checkpoint is written before the oldest is deleted."""
        train = self.config.train
        written = math.ceil(self.steps / train.checkpoint_every)
        held = min(written, train.keep_checkpoints + 1)
        logs = FIXED_BYTES + self.steps // train.log_every * ROW_BYTES + written * CHECKPOINT_BYTES
        return held * self.checkpoint_bytes + self.encoder_bytes + logs


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
        try:
            seconds: list[float] = []
            with memory_errors(lambda: less_memory(config)):
                finished = fit_or_stop(lambda: _train_steps(state, callback, seconds), lambda: None)
            return _estimate(state, seconds) if finished else None
        finally:
            state.batches.close()


def _readable(config: RunConfig, callback: TrainerCallback) -> ImageList:
    """List the images and leave out the unreadable ones, as a run does."""
    kept = keep_readable(list_images(config.data), config, callback)
    check_enough_readable(kept, config, None)
    return kept


def _train_steps(state: TrainState, callback: TrainerCallback, seconds: list[float]) -> bool:
    """Train the first steps, and append the seconds of each; return False if the callback stopped it.

    The first steps are not measured: they take the batches that the workers have begun together, and build kernels.
    """
    train, device = state.config.train, state.fabric.device
    workers = resolve_workers(train.workers, device.type, state.fabric.world_size)
    first = max(1, workers)
    count = min(state.schedule.steps, first + max(MEASURED_STEPS, workers))
    state.wrapped.train()
    for number in range(1, count + 1):
        begin = time.perf_counter()
        values = state.schedules.at(state.step)
        set_hyperparameters(state.optimizer, values["lr"], values["weight_decay"])
        forward_backward(state, values)
        update_weights(state, values)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        callback.on_step_end(number, None)
        if callback.should_stop():
            return False
    del seconds[: min(first, count - 1)]
    return True


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
