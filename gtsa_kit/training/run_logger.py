"""What a run leaves for people to read: metrics.jsonl, train.log, tensorboard/, curves.png, errors.jsonl."""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtsa_kit.data.image_files import ImageList
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.files import atomic_write, read_json_lines, write_json_lines
from gtsa_kit.methods.base import Panel


@dataclass(frozen=True)
class StepMetrics:
    """One row of metrics.jsonl: what the step `step` (counted from 1) did."""

    step: int
    epoch: float
    loss: float
    terms: Mapping[str, float]
    """The method's own, by name."""
    feature_std: float
    effective_rank: float
    schedules: Mapping[str, float]
    """lr, weight_decay, momentum, and what else the method schedules."""
    images_per_second: float
    data_wait: float
    """Share of the time since the last row that the step waited for images."""
    seconds: float
    """Since the start, or the latest resumption."""

    def row(self) -> dict[str, float]:
        """All numbers by column, those of `terms` and `schedules` in their place."""
        row: dict[str, float] = {}
        for name, value in vars(self).items():
            row |= value if isinstance(value, Mapping) else {name: value}
        return row


class Meter:
    """Images per second and the share of time spent waiting, since the last reading."""

    def __init__(self, batch: int, step: int) -> None:
        self.batch = batch
        self.begin = self._mark = time.monotonic()
        self._step = step
        self._waited = 0.0

    @property
    def seconds(self) -> float:
        """Since the loop began."""
        return time.monotonic() - self.begin

    def read(self, step: int, waited: float) -> tuple[float, float]:
        """Rate and share of waiting up to `step` (`waited` seconds in all by then), and a new mark."""
        now = time.monotonic()
        span = max(now - self._mark, 1e-9)
        rate = (step - self._step) * self.batch / span
        wait = min(1.0, (waited - self._waited) / span)
        self._mark, self._step, self._waited = now, step, waited
        return rate, wait


class RunLog:
    """Writers of one run folder. Opening one for a resumed run drops what lies beyond the checkpoint's step."""

    def __init__(self, run: Path, step: int, panels: Sequence[Panel] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.panels = run, panels
        self.rows = [row for row in read_json_lines(run / "metrics.jsonl") if row["step"] <= step]
        write_json_lines(run / "metrics.jsonl", self.rows)
        self._metrics = open(run / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        listed = read_json_lines(run / "errors.jsonl")
        write_json_lines(run / "errors.jsonl", listed)  # whole lines only, before more are added
        self._broken = {row["path"] for row in listed}
        self.logger = logging.getLogger(f"gtsa_kit.training.run.{run}")
        self.logger.propagate = False
        self.logger.setLevel(logging.INFO)
        handler = logging.FileHandler(run / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.logger.handlers = [handler]
        self._drawn = time.monotonic()

    def step(self, metrics: StepMetrics) -> None:
        """Record one row everywhere."""
        row = metrics.row()
        self.rows.append(row)
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, metrics.step)
        self.logger.info(describe(metrics))

    def sync(self) -> None:
        """Have the rows on disk, so that a checkpoint written next never knows more than they do."""
        os.fsync(self._metrics.fileno())

    def add_broken(self, found: ImageList, broken: Iterable[ImageError]) -> int:
        """Add images to errors.jsonl, each once; returns how many there are now."""
        with open(self.run / "errors.jsonl", "a", encoding="utf-8") as file:
            for error in broken:
                name = found.name(error.path)
                if name not in self._broken:
                    self._broken.add(name)
                    file.write(json.dumps({"path": name, "reason": error.reason}) + "\n")
                    self.logger.info("broken image: %s: %s", name, error.reason)
        return len(self._broken)

    def draw(self) -> None:
        """Draw curves.png anew, if there is anything to draw."""
        if self.rows:
            draw_curves(self.rows, self.panels, self.run / "curves.png")
            self._drawn = time.monotonic()

    def draw_now_and_then(self) -> None:
        """Draw if that was not done for five minutes: it costs a second."""
        if time.monotonic() - self._drawn > 300:
            self.draw()

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        self._metrics.close()
        self._board.close()
        for handler in self.logger.handlers:
            handler.close()


def describe(metrics: StepMetrics) -> str:
    """One line for a log or a terminal that shows no live display."""
    m = metrics
    return (
        f"step {m.step}  epoch {m.epoch:.2f}  loss {m.loss:.4f} ({describe_terms(m, digits=4)})  "
        f"std {m.feature_std:.3f}  rank {m.effective_rank:.1f}  "
        f"lr {m.schedules['lr']:.2e}  momentum {m.schedules['momentum']:.4f}  "
        f"{m.images_per_second:.2f} images/s  data wait {m.data_wait:.0%}"
    )


def describe_terms(metrics: StepMetrics, digits: int) -> str:
    """The method's terms, for people."""
    said = [
        f"{name.replace('_', ' ')} " + (f"{value:.0%}" if name.endswith("_accuracy") else f"{value:.{digits}f}")
        for name, value in metrics.terms.items()
    ]
    return ", ".join(said)


_SHARED_PANELS: tuple[Panel, ...] = (
    ("Collapse signals: 0 is collapse", ("feature_std",)),
    ("Effective rank of patch tokens", ("effective_rank",)),
    ("Learning rate", ("lr",)),
    ("Teacher momentum", ("momentum",)),
    ("Images per second", ("images_per_second",)),
)


def draw_curves(rows: list[dict[str, Any]], panels: Sequence[Panel], path: Path) -> None:
    """Plot metrics rows over steps into a PNG: the loss, a method's own panels, and what all methods share."""
    from matplotlib.figure import Figure

    panels = (("Loss", ("loss",)), *panels, *_SHARED_PANELS)
    lines = -(-len(panels) // 3)
    figure = Figure(figsize=(15, 10))
    figure.subplots_adjust(left=0.05, right=0.98, top=0.95, bottom=0.07, hspace=0.25)
    for place, (title, names) in enumerate(panels, start=1):
        axis = figure.add_subplot(lines, 3, place)
        for name in names:
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend()
    figure.supxlabel("step")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
