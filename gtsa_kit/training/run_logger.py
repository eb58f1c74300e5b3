"""Logs of a run folder: metrics.jsonl, train.log, curves.png, errors.jsonl; and the loggers of the run."""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gtsa_kit.data.entries import Entry
from gtsa_kit.figures import save_figure
from gtsa_kit.files import read_json_lines, sync, write_json_lines
from gtsa_kit.methods.base import PlotGroup
from gtsa_kit.training.curves import COMMON_PLOT_GROUPS, draw_curves
from gtsa_kit.training.loggers.base import MetricsLogger

SECONDS_BETWEEN_CURVES = 300
"""Minimum time in seconds between two drawings of curves.png, which take two seconds each."""


class LoggedStep(Protocol):
    """Metrics of one training step, of any kind of run."""

    @property
    def step(self) -> int:
        """Number of the step, counted from 1."""

    def row(self) -> dict[str, Any]:
        """Return the row of metrics.jsonl; loggers get its numbers."""

    def line(self) -> str:
        """Return the line of train.log."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one pretraining step."""

    step: int
    """Number of the step, counted from 1."""
    epoch: float
    """Number of finished epochs, with fractions."""
    loss: float
    terms: Mapping[str, float]
    """The method's own metrics by column name."""
    feature_std: float
    effective_rank: float
    schedules: Mapping[str, float]
    """Values of lr, weight_decay, teacher_momentum and the method's own schedules at this step."""
    images_per_second: float
    data_wait: float
    """Fraction of the time since the last row that was spent waiting for images, 0 to 1."""
    seconds: float
    """Seconds since the run was started or resumed."""

    def row(self) -> dict[str, float]:
        """Return all values by column name; those of `terms` and `schedules` are columns of their own."""
        row: dict[str, float] = {}
        for name, value in vars(self).items():
            row |= value if isinstance(value, Mapping) else {name: value}
        return row

    def line(self) -> str:
        """Return the row as text, for train.log or a terminal without live display."""
        return (
            f"step {self.step}  epoch {self.epoch:.2f}  loss {self.loss:.4f} ({format_terms(self, digits=4)})  "
            f"std {self.feature_std:.3f}  rank {self.effective_rank:.1f}  "
            f"lr {self.schedules['lr']:.2e}  momentum {self.schedules['teacher_momentum']:.4f}  "
            f"{self.images_per_second:.2f} images/s  data wait {self.data_wait:.0%}"
        )


class ThroughputMeter:
    """Meter of images per second and of the fraction of time spent waiting for images, between two readings."""

    def __init__(self, batch: int, step: int) -> None:
        self.batch = batch
        self._start = self._last_time = time.monotonic()
        self._last_step = step
        self._last_waited = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the meter was created."""
        return time.monotonic() - self._start

    def read(self, step: int, waited: float) -> tuple[float, float]:
        """Return images per second and the fraction of time spent waiting since the last reading.

        Args:
            step: Number of finished steps.
            waited: Seconds waited for images since the meter was created.
        """
        now = time.monotonic()
        elapsed = max(now - self._last_time, 1e-9)
        images_per_second = (step - self._last_step) * self.batch / elapsed
        data_wait = min(1.0, (waited - self._last_waited) / elapsed)
        self._last_time, self._last_step, self._last_waited = now, step, waited
        return images_per_second, data_wait


class RunLogger:
    """Writer of the logs of one run folder. On resume, rows of metrics.jsonl after `step` are deleted."""

    def __init__(
        self,
        run_dir: Path,
        step: int,
        plot_groups: Sequence[PlotGroup] = (),
        common: Sequence[PlotGroup] = COMMON_PLOT_GROUPS,
    ) -> None:
        self.run_dir, self.plot_groups, self._common = run_dir, plot_groups, common
        rows = read_json_lines(run_dir / "metrics.jsonl")
        self.last_logged = max((row["step"] for row in rows), default=-1)
        """Last step of earlier processes, those after `step` included; -1 for none."""
        self.rows = [row for row in rows if row["step"] <= step]
        write_json_lines(run_dir / "metrics.jsonl", self.rows)
        self._metrics_file = open(run_dir / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        error_rows = read_json_lines(run_dir / "errors.jsonl")
        write_json_lines(run_dir / "errors.jsonl", error_rows)  # drops an incomplete last line
        self._unreadable = {row["path"] for row in error_rows}
        self.text_log = logging.getLogger(f"gtsa_kit.training.run.{run_dir}")
        self.text_log.propagate = False
        self.text_log.setLevel(logging.INFO)
        handler = logging.FileHandler(run_dir / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.text_log.handlers = [handler]
        self._curves_time = time.monotonic()
        self.loggers: MetricsLogger | None = None
        """Loggers that get the numbers of each row, other values, and images."""
        self.finished = False
        """True if the run has reached its end, for the loggers."""

    def log_step(self, metrics: LoggedStep) -> None:
        """Write one row to metrics.jsonl, the loggers and train.log."""
        row = metrics.row()
        self.rows.append(row)
        self._metrics_file.write(json.dumps(row) + "\n")
        self._metrics_file.flush()
        if self.loggers:
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
            self.loggers.log_scalars(numbers, metrics.step)
        self.text_log.info(metrics.line())

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write a value that is not part of the rows to the loggers."""
        if self.loggers:
            self.loggers.log_scalars({name: value}, step)

    def add_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8 to the loggers."""
        if self.loggers:
            self.loggers.log_image(name, pixels, step)

    def sync(self) -> None:
        """Sync metrics.jsonl to disk, so that it holds every step of the checkpoint that is written next."""
        sync(self._metrics_file.fileno())

    def add_unreadable(self, entries: Iterable[Entry]) -> int:
        """Add images to errors.jsonl, each once, and return the number of its rows."""
        with open(self.run_dir / "errors.jsonl", "a", encoding="utf-8") as file:
            for entry in entries:
                if entry.name not in self._unreadable:
                    self._unreadable.add(entry.name)
                    file.write(json.dumps({"path": entry.name, "reason": entry.reason}) + "\n")
                    self.text_log.info("unreadable image: %s: %s", entry.name, entry.reason)
        return len(self._unreadable)

    def draw_curves(self) -> None:
        """Draw curves.png, if there are rows."""
        if self.rows:
            save_figure(draw_curves(self.rows, self.plot_groups, self._common), self.run_dir / "curves.png")
            self._curves_time = time.monotonic()

    def draw_curves_if_due(self) -> bool:
        """Draw curves.png if the last drawing is older than `SECONDS_BETWEEN_CURVES`; return whether it was drawn."""
        due = time.monotonic() - self._curves_time > SECONDS_BETWEEN_CURVES
        if due:
            self.draw_curves()
        return due

    def close(self) -> None:
        """Flush and close all files; a second call does nothing."""
        self._metrics_file.close()
        if self.loggers:
            self.loggers.close(self.finished)
        for handler in self.text_log.handlers:
            handler.close()


def format_terms(metrics: StepMetrics, digits: int) -> str:
    """Format the method's own metrics as text, accuracies in percent."""
    texts = [
        f"{name.replace('_', ' ')} " + (f"{value:.0%}" if name.endswith("_accuracy") else f"{value:.{digits}f}")
        for name, value in metrics.terms.items()
    ]
    return ", ".join(texts)
