"""What `gtsa train` shows while it works. Imports torch; only the command itself imports this."""

import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import is_first_process, stop_on_signal
from gtsa_kit.cli.support.progress import Steps, console
from gtsa_kit.config import RunConfig
from gtsa_kit.data.multicrop import resolve_workers
from gtsa_kit.files import read_json_lines
from gtsa_kit.hardware import available_cores
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import StepMetrics, describe, describe_terms
from gtsa_kit.training.trainer import TrainerCallback

ROWS_OF_WAITING = 5
"""Rows of metrics after which it is said that the step waits for its data; the first of them warms up."""
MOST_WAITING = 0.1


class TrainingDisplay(TrainerCallback):
    """Shows a run, and hears Ctrl-C."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.steps = Steps(out)
        self.stopped = False
        self._waits: list[float] = []
        self._workers = 0
        self._on_cpu = True

    def on_scan(self, done: int, total: int) -> None:
        """First look at the images."""
        if done == 1:
            self.steps.begin("checking images", total)
        self.steps.update(done)

    def on_train_start(self, plan: TrainSchedule, config: RunConfig, step: int, device: str) -> None:
        """What is going to happen."""
        what = f"{config.method}, {config.model.arch} on {device} in {config.train.precision}"
        self.out.print(
            f"{what}: {plan.images} images, {plan.steps} steps of {plan.batch}"
            + (f", going on from step {step}" if step else "")
        )
        self.steps.begin("training", plan.steps, done=step)
        self._waits, self._on_cpu = [], device == "cpu"
        self._workers = resolve_workers(config.train.workers, device, config.train.devices)

    def on_step_end(self, step: int, metrics: StepMetrics | None) -> None:
        """One step further."""
        if metrics:
            self._waits.append(metrics.data_wait)
            if len(self._waits) == ROWS_OF_WAITING and (share := statistics.median(self._waits)) > MOST_WAITING:
                self.out.print(waiting_advice(share, self._workers, available_cores(), self._on_cpu))
            self.steps.update(step, _short(metrics), describe(metrics))
        else:
            self.steps.update(step)

    def should_stop(self) -> bool:
        """Set by Ctrl-C."""
        return self.stopped


def run_training(config: RunConfig, run: Path, resume: bool) -> bool:
    """Train with a display; True when the run came to its end."""
    # DDP's advice on the memory layout of 1x1 convolutions; it changes no number.
    warnings.filterwarnings("ignore", message="Grad strides do not match")
    out = console()
    out.quiet = not is_first_process()
    with shown(out) as display:
        ended = train(config, run, resume, display)
    if ended:
        out.print(summary(run))
    return ended


@contextmanager
def shown(out: Console) -> Iterator[TrainingDisplay]:
    """A display of what is trained in the block; Ctrl-C asks it to save and stop."""
    display = TrainingDisplay(out)

    def stopping() -> None:
        display.stopped = True
        out.print("stopping after this step; Ctrl-C again ends at once, without saving")

    with stop_on_signal(stopping), display.steps:
        yield display


def summary(run: Path) -> Table:
    """What a finished run left, and what to do with it."""
    table = Table(title="done", title_justify="left", show_header=False, box=None)
    for _ in range(3):
        table.add_column(overflow="fold")
    table.add_row("encoder", str(run / "encoder.safetensors"), "loads in timm as it is")
    table.add_row("curves", str(run / "curves.png"), f"or: tensorboard --logdir {run / 'tensorboard'}")
    if broken := len(read_json_lines(run / "errors.jsonl")):
        table.add_row(f"{broken} broken images", str(run / "errors.jsonl"), "left out")
    table.add_row("next", f"gtsa export {run} --format onnx", "")
    return table


def waiting_advice(share: float, workers: int, cores: int, on_cpu: bool) -> str:
    """What to change when the step waits for images this share of the time."""
    said = f"the step waits {share:.0%} of the time for images. "
    if workers < (cores if on_cpu else cores - 1):
        return said + f"Try --workers {min(cores, max(1, 2 * workers))} (now {workers}; {cores} cores here)"
    way_out = "" if on_cpu else "let the GPU make the views (--augment-on device), "
    return said + (
        f"All {cores} cores load images: {way_out}keep images smaller (a longer side of 512 pixels is "
        "enough for views of 224), on a local disk, or take fewer views (--set views.local_crops=6)"
    )


def _short(m: StepMetrics) -> str:
    return (
        f"{m.images_per_second:.1f} img/s  data wait {m.data_wait:.0%}  "
        f"loss {m.loss:.3f} = {describe_terms(m, digits=3)}  std {m.feature_std:.2f}  rank {m.effective_rank:.0f}  "
        f"lr {m.schedules['lr']:.1e}  m {m.schedules['momentum']:.3f}"
    )
