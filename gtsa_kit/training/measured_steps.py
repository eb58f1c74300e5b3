"""Measurement of the first steps of a run, of which nothing is kept, for the estimate of all of it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

MEASURED_STEPS = 3
"""Least number of steps that are measured; more where several workers load, so that each is waited for."""
ROW_BYTES, CHECKPOINT_BYTES, FIXED_BYTES = 2_000, 200_000, 2_000_000
"""Bytes of logs for a logged step, of pictures for a checkpoint, and of the report, the curves and the settings."""


class StepCallback(Protocol):
    """Part of the callbacks of all runs that a measurement calls."""

    def on_step_end(self, step: int, metrics: None) -> None:
        """Report that `step` steps are finished."""

    def should_stop(self) -> bool:
        """Return whether to stop after this step."""


@dataclass(frozen=True, kw_only=True)
class StepsEstimate:
    """Length and speed of a run, and its files."""

    device: str
    steps: int
    """Optimizer steps of the run."""
    images_per_step: int
    measured_steps: int
    """Steps that `seconds_per_step` is the mean of."""
    seconds_per_step: float
    checkpoint_bytes: int
    """Size of one checkpoint."""

    @property
    def images_per_second(self) -> float:
        """Images per second, with the time of loading them."""
        return self.images_per_step / self.seconds_per_step

    @property
    def step_seconds(self) -> float:
        """Seconds of all steps; checkpoints come on top."""
        return self.steps * self.seconds_per_step

    def file_bytes(self, checkpoint_every: int, keep_checkpoints: int, log_every: int) -> int:
        """Return the largest size of checkpoints and logs: a checkpoint is written before the oldest is deleted."""
        written = math.ceil(self.steps / checkpoint_every)
        logs = FIXED_BYTES + self.steps // log_every * ROW_BYTES + written * CHECKPOINT_BYTES
        return min(written, keep_checkpoints + 1) * self.checkpoint_bytes + logs


def measure_steps(
    train_step: Callable[[], None], steps: int, workers: int, device: torch.device, callback: StepCallback
) -> list[float] | None:
    """Train the first steps of a run, and return the seconds of those that count; None if the callback stopped it.

    The first steps are not measured: they take the batches that the workers have begun together, and build kernels.

    Args:
        train_step: Function that trains the next step.
        steps: Steps of the whole run.
        workers: Processes that load images.
        device: Device of the run.
        callback: Callback of the run.
    """
    first = max(1, workers)
    count = min(steps, first + max(MEASURED_STEPS, workers))
    seconds: list[float] = []
    for number in range(1, count + 1):
        begin = time.perf_counter()
        train_step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        callback.on_step_end(number, None)
        if callback.should_stop():
            return None
    return seconds[min(first, count - 1) :]
