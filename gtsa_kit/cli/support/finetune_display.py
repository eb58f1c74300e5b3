"""Progress display of `gtsa finetune`. This module imports torch, so the command imports it only when it runs."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import is_first_process, stop_on_signal
from gtsa_kit.cli.support.progress import Steps, make_console, print_next
from gtsa_kit.config.finetune import FinetuneConfig
from gtsa_kit.files import read_json_lines, shell_word
from gtsa_kit.tasks.finish import finish_run
from gtsa_kit.tasks.run import finetune_run
from gtsa_kit.tasks.state import SCORE_NAMES, FinetuneCallback, FinetuneMetrics, FinetuneState
from gtsa_kit.tasks.task_data import TaskData

MAX_CLASSES = 40
"""Largest number of classes in the table of the labeled images."""
BY_CLASS = {"iou": "IoU", "mask_ap_by_class": "mask AP", "ap_by_class": "AP"}
"""Names of the scores by class, of which the first that a model has is printed."""


class FinetuneDisplay(FinetuneCallback):
    """Callback that shows progress on the console and stops the run after Ctrl-C."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.steps = Steps(out)
        self.stopped = False
        self._training: tuple[int, int] | None = None
        """Finished and all steps, while they are trained."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Show progress of a stage; the bar of the training comes back after it."""
        if stage != self.steps.stage:
            self.steps.begin(stage, total)
        self.steps.update(done)

    def on_notice(self, message: str) -> None:
        """Print a sentence about the run."""
        self.out.print(message, soft_wrap=True)

    def on_data(self, data: TaskData) -> None:
        """Print the classes with their pixels or images, what was skipped, and warnings."""
        print_data(data, self.out)

    def on_train_start(self, state: FinetuneState) -> None:
        """Print the model, device and length of the run."""
        config, spec = state.config, state.model.spec
        head = f"head {spec.head}" + (f" ({spec.pyramid})" if spec.head == "fpn" else "")
        encoder = f"{state.model.encoder.architecture.name}{', frozen' if config.train.freeze else ''}"
        self.out.print(
            f"{spec.task}: {encoder}, {head}, on {state.fabric.device} in {config.train.precision}: "
            f"{state.images} images, {state.steps} steps of {state.batch}"
            + (f", resuming from step {state.step}" if state.step else "")
        )
        self._training = state.step, state.steps
        self.steps.begin("training", state.steps, done=state.step)

    def on_step_end(self, step: int, metrics: FinetuneMetrics | None) -> None:
        """Show the step's metrics; print a line for scores."""
        assert self._training is not None
        if self.steps.stage != "training":  # scores were measured
            self.steps.begin("training", self._training[1], done=step)
        self._training = step, self._training[1]
        if metrics and metrics.scores:
            names = ", ".join(f"{SCORE_NAMES[name]} {value:.2f}%" for name, value in metrics.scores.items())
            self.out.print(f"step {step}: {names}, loss {metrics.loss:.4f}", soft_wrap=True)
        self.steps.update(step, _short(metrics) if metrics else "", metrics.line() if metrics else "")

    def should_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.stopped


@contextmanager
def finetune_display() -> Iterator[FinetuneDisplay]:
    """Yield the display of one or more runs; Ctrl-C stops the run that is shown."""
    # DDP's advice on the memory layout of 1x1 convolutions; results do not depend on it.
    warnings.filterwarnings("ignore", message="Grad strides do not match")
    out = make_console()
    out.quiet = not is_first_process()
    display = FinetuneDisplay(out)

    def on_interrupt() -> None:
        display.stopped = True
        out.print("stopping after this step; press Ctrl-C again to exit at once without saving")

    with stop_on_signal(on_interrupt), display.steps:
        yield display


def run_finetuning(config: FinetuneConfig, run_dir: Path, resume: bool) -> bool:
    """Fine-tune with a display; return True if the run finished and False if it was stopped."""
    with finetune_display() as display:
        finished = finetune_run(config, run_dir, resume, display)
    if finished:
        print_result(run_dir, display.out)
    return finished


def finish_with_result(run_dir: Path) -> None:
    """Write the result of a run from its last checkpoint, and print it."""
    with finetune_display() as display:
        message = finish_run(run_dir, display)
    display.out.print(message, markup=False, soft_wrap=True)
    print_result(run_dir, display.out)


def print_data(data: TaskData, out: Console) -> None:
    """Print the content of the labeled images: a row for each class, then sentences."""
    report = data.report
    images = f"{report.train.images} training and {report.val.images} validation images"
    out.print(f"{images}; split: {report.split}", soft_wrap=True)
    table = Table(box=None)
    for column, justify in (
        ("class", "left"),
        (f"train, {report.unit}", "right"),
        ("share", "right"),
        ("val", "right"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    total = max(1, sum(report.train.counts))
    rows = zip(report.classes, report.train.counts, report.val.counts, strict=True)
    for name, train, val in islice(rows, MAX_CLASSES):
        table.add_row(name, f"{train:,}", f"{train / total:.1%}", f"{val:,}")
    if len(report.classes) > MAX_CLASSES:
        table.add_row(f"and {len(report.classes) - MAX_CLASSES} more classes", "", "", "")
    out.print(table)
    for line in (*report.skipped, *report.warnings):
        out.print(line, soft_wrap=True)


def print_result(run_dir: Path, out: Console) -> None:
    """Print the scores of a finished run, its files and the next command."""
    scores = json.loads((run_dir / "scores.json").read_text(encoding="utf-8"))
    out.print(f"scores of step {scores['step']}, head {scores['head']}", soft_wrap=True)
    out.print(score_table(scores))
    out.print(_files_table(run_dir, scores))
    print_next(f"gtsa export {shell_word(run_dir)} --format onnx", out)


def score_table(scores: dict[str, Any]) -> Table:
    """Return the table of scores in percent: IoU or AP by class, if there is one, then the others."""
    table = Table(box=None)
    key, name = next(((key, name) for key, name in BY_CLASS.items() if key in scores), ("", ""))
    table.add_column("class" if key else "score", overflow="fold")
    table.add_column(f"{name}, %" if key else "%", justify="right")
    for name, value in islice(scores.get(key, {}).items(), MAX_CLASSES):
        table.add_row(name, "-" if value is None else f"{value:.1f}")
    for key, name in SCORE_NAMES.items():
        if scores.get(key) is not None:
            table.add_row(name, f"{scores[key]:.2f}", style="bold" if key == scores.get("metric") else None)
    return table


def _files_table(run_dir: Path, scores: dict[str, Any]) -> Table:
    table = Table(title="done", title_justify="left", show_header=False, box=None)
    for _ in range(3):
        table.add_column(overflow="fold")
    table.add_row("model", str(run_dir / "model.safetensors"), f"the best of the run, of step {scores['step']}")
    table.add_row("scores", str(run_dir / "scores.json"), f"on {scores['val_images']} validation images")
    table.add_row("pictures", str(run_dir / "predictions.png"), "images, truth, predictions")
    tensorboard = run_dir / "tensorboard"
    viewer = f"or: tensorboard --logdir {tensorboard}" if tensorboard.exists() else "losses and rates over the steps"
    table.add_row("curves", str(run_dir / "curves.png"), viewer)
    if unreadable := len(read_json_lines(run_dir / "errors.jsonl")):
        table.add_row("skipped images", str(run_dir / "errors.jsonl"), f"{unreadable}, with the reasons")
    return table


def _short(metrics: FinetuneMetrics) -> str:
    """Format one metrics row for the line below the progress bar."""
    return (
        f"{metrics.images_per_second:.1f} img/s  data wait {metrics.data_wait:.0%}  loss {metrics.loss:.3f}  "
        f"lr {metrics.lr:.1e}"
    )
