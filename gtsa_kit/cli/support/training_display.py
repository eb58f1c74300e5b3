"""Progress display of `gtsa train`. This module imports torch, so the command imports it only when it runs."""

import json
import statistics
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import is_first_process, stop_on_signal
from gtsa_kit.cli.support.progress import Steps, make_console, print_next
from gtsa_kit.config import RunConfig
from gtsa_kit.data.batches import resolve_workers
from gtsa_kit.files import read_json_lines, shell_word
from gtsa_kit.hardware import available_cores
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.training.finish import finish_run
from gtsa_kit.training.pretrain import open_weights_to_start
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import StepMetrics, format_terms
from gtsa_kit.training.trainer import TrainerCallback

ROWS_BEFORE_ADVICE = 5
"""Number of metrics rows over which the median waiting time is taken; a median ignores the slow first row."""
MAX_DATA_WAIT = 0.1
"""Median fraction of time spent waiting for images above which advice is printed."""


class TrainingDisplay(TrainerCallback):
    """Training callback that shows progress on the console and stops the run after Ctrl-C."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.steps = Steps(out)
        self.stopped = False
        self._waits: list[float] = []
        self._workers = 0
        self._on_cpu = True

    def on_scan(self, done: int, total: int) -> None:
        """Show progress of the image check."""
        if done == 1:
            self.steps.begin("checking images", total)
        self.steps.update(done)

    def on_notice(self, message: str) -> None:
        """Print a sentence about the run."""
        self.out.print(message, markup=False, soft_wrap=True)

    def on_train_start(self, schedule: TrainSchedule, config: RunConfig, step: int, device: str) -> None:
        """Print method, architecture, device and length of the run."""
        summary = f"{config.method}, {config.encoder} on {device} in {config.train.precision}"
        self.out.print(
            f"{summary}: {schedule.images} images, {schedule.steps} steps of {schedule.batch}"
            + (f", resuming from step {step}" if step else "")
        )
        self.steps.begin("training", schedule.steps, done=step)
        self._waits, self._on_cpu = [], device == "cpu"
        self._workers = resolve_workers(config.train.workers, device, config.train.devices)

    def on_step_end(self, step: int, metrics: StepMetrics | None) -> None:
        """Show the step's metrics; print advice once if the steps wait for images."""
        if metrics:
            self._waits.append(metrics.data_wait)
            if len(self._waits) == ROWS_BEFORE_ADVICE and (fraction := statistics.median(self._waits)) > MAX_DATA_WAIT:
                self.out.print(data_wait_advice(fraction, self._workers, available_cores(), self._on_cpu))
            self.steps.update(step, _format_short(metrics), metrics.line())
        else:
            self.steps.update(step)

    def should_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.stopped


def run_training(config: RunConfig, run_dir: Path, resume: bool, given: Collection[str] = ()) -> bool:
    """Train with a display; return True if the run finished and False if it was stopped.

    Args:
        config: Settings of the run.
        run_dir: Run folder.
        resume: Whether to continue the run in the folder, if there is one.
        given: Dotted keys of the settings that are no defaults.
    """
    # DDP's advice on the memory layout of 1x1 convolutions; results do not depend on it.
    warnings.filterwarnings("ignore", message="Grad strides do not match")
    out = make_console()
    out.quiet = not is_first_process()
    config, start = open_weights_to_start(config, run_dir, resume, given)
    with training_display(out) as display:
        finished = train(config, run_dir, resume, display, start)
    if finished:
        print_summary(run_dir, out)
    return finished


def finish_with_summary(run_dir: Path) -> None:
    """Write the result of a run from its last checkpoint, and print what was written."""
    out = make_console()
    for message in finish_run(run_dir):
        out.print(message, markup=False, soft_wrap=True)
    print_summary(run_dir, out)


@contextmanager
def training_display(out: Console) -> Iterator[TrainingDisplay]:
    """Open a display for the training inside the block; Ctrl-C makes it save a checkpoint and stop."""
    display = TrainingDisplay(out)

    def on_interrupt() -> None:
        display.stopped = True
        out.print("stopping after this step; press Ctrl-C again to exit at once without saving")

    with stop_on_signal(on_interrupt), display.steps:
        yield display


def print_summary(run_dir: Path, out: Console) -> None:
    """Print the files of a finished run and the next command."""
    out.print(summary_table(run_dir))
    print_next(f"gtsa export {shell_word(run_dir)} --format onnx", out)


def _use_in_timm(description: Path) -> str:
    """Return how timm loads the encoder that a file describes."""
    architecture = json.loads(description.read_text(encoding="utf-8"))["architecture"] if description.exists() else {}
    channels = architecture.get("timm_kwargs", {}).get("in_chans")
    return f"loads in timm with in_chans={channels}" if channels else "loads in timm as it is"


def summary_table(run_dir: Path) -> Table:
    """Build the table of the files of a finished run."""
    table = Table(title="done", title_justify="left", show_header=False, box=None)
    for _ in range(3):
        table.add_column(overflow="fold")
    table.add_row("encoder", str(run_dir / "encoder.safetensors"), _use_in_timm(run_dir / "encoder.json"))
    tensorboard = run_dir / "tensorboard"
    viewer = f"or: tensorboard --logdir {tensorboard}" if tensorboard.exists() else "losses and rates over the steps"
    table.add_row("curves", str(run_dir / "curves.png"), viewer)
    table.add_row("report", str(run_dir / "report.html"), "curves and feature colors over the run, in one file")
    if unreadable := len(read_json_lines(run_dir / "errors.jsonl")):
        table.add_row("unreadable images", str(run_dir / "errors.jsonl"), f"{unreadable} skipped")
    return table


def data_wait_advice(fraction: float, workers: int, cores: int, on_cpu: bool) -> str:
    """Return advice for a run whose steps spend a `fraction` of the time waiting for images."""
    summary = f"the step waits {fraction:.0%} of the time for images. "
    if workers < (cores if on_cpu else cores - 1):
        return summary + f"Try --workers {min(cores, max(1, 2 * workers))} (now {workers}; {cores} cores here)"
    gpu_hint = "" if on_cpu else "make the views on the GPU (--augment-on device), "
    return summary + (
        f"All {cores} cores load images already: {gpu_hint}store smaller images (a longer side of 512 pixels is "
        "enough for views of 224) on a local disk, or make fewer views (--set views.local_crops=6)"
    )


def _format_short(m: StepMetrics) -> str:
    """Format one metrics row for the line below the progress bar."""
    return (
        f"{m.images_per_second:.1f} img/s  data wait {m.data_wait:.0%}  "
        f"loss {m.loss:.3f} = {format_terms(m, digits=3)}  std {m.feature_std:.2f}  rank {m.effective_rank:.0f}  "
        f"lr {m.schedules['lr']:.1e}  m {m.schedules['teacher_momentum']:.3f}"
    )
