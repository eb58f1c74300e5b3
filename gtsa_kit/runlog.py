"""What a run leaves for people to read: metrics.jsonl, train.log, tensorboard/, curves.png, errors.jsonl."""

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gtsa_kit.files import atomic_write, read_json_lines, write_json_lines
from gtsa_kit.images import BrokenImage, Found


@dataclass(frozen=True)
class StepMetrics:
    """One row of metrics.jsonl: what the step `step` (counted from 1) did."""

    step: int
    epoch: float
    loss: float
    region: float
    correspondence: float
    rotation: float
    rotation_accuracy: float
    feature_std: float
    effective_rank: float
    lr: float
    weight_decay: float
    momentum: float
    alpha: float
    images_per_second: float
    data_wait: float
    """Share of the time since the last row that the step waited for photographs."""
    seconds: float
    """Since the start, or the latest resumption."""


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

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        self.rows = [row for row in read_json_lines(run / "metrics.jsonl") if row["step"] <= step]
        write_json_lines(run / "metrics.jsonl", self.rows)
        self._metrics = open(run / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        listed = read_json_lines(run / "errors.jsonl")
        write_json_lines(run / "errors.jsonl", listed)  # whole lines only, before more are added
        self._broken = {row["path"] for row in listed}
        self.logger = logging.getLogger(f"gtsa_kit.run.{run}")
        self.logger.propagate = False
        self.logger.setLevel(logging.INFO)
        handler = logging.FileHandler(run / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.logger.handlers = [handler]
        self._drawn = time.monotonic()

    def step(self, metrics: StepMetrics) -> None:
        """Record one row everywhere."""
        row = asdict(metrics)
        self.rows.append(row)
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, metrics.step)
        self.logger.info(describe(metrics))

    def sync(self) -> None:
        """Have the rows on disk, so that a checkpoint written next never knows more than they do."""
        os.fsync(self._metrics.fileno())

    def add_broken(self, found: Found, broken: Iterable[BrokenImage]) -> int:
        """Add photographs to errors.jsonl, each once; returns how many there are now."""
        with open(self.run / "errors.jsonl", "a", encoding="utf-8") as file:
            for error in broken:
                name = found.name(error.path)
                if name not in self._broken:
                    self._broken.add(name)
                    file.write(json.dumps({"path": name, "reason": error.reason}) + "\n")
                    self.logger.info("broken photograph: %s: %s", name, error.reason)
        return len(self._broken)

    def draw(self) -> None:
        """Draw curves.png anew, if there is anything to draw."""
        if self.rows:
            draw_curves(self.rows, self.run / "curves.png")
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
        f"step {m.step}  epoch {m.epoch:.2f}  loss {m.loss:.4f} (region {m.region:.4f}, correspondence "
        f"{m.correspondence:.4f}, rotation {m.rotation:.4f})  turns right {m.rotation_accuracy:.0%}  "
        f"std {m.feature_std:.3f}  rank {m.effective_rank:.1f}  lr {m.lr:.2e}  momentum {m.momentum:.4f}  "
        f"{m.images_per_second:.2f} images/s  data wait {m.data_wait:.0%}"
    )


_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("loss",)),
    ("Region and correspondence (minus cosine)", ("region", "correspondence")),
    ("Rotation (cross-entropy)", ("rotation",)),
    ("Turns named right (chance 0.25)", ("rotation_accuracy",)),
    ("Collapse signals: 0 is collapse", ("feature_std",)),
    ("Effective rank of patch tokens", ("effective_rank",)),
    ("Learning rate", ("lr",)),
    ("Teacher momentum", ("momentum",)),
    ("Images per second", ("images_per_second",)),
)


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot metrics rows over steps into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 10))
    figure.subplots_adjust(left=0.05, right=0.98, top=0.95, bottom=0.07, hspace=0.25)
    axes = figure.subplots(3, 3).flat
    for axis, (title, names) in zip(axes, _PANELS, strict=True):
        for name in names:
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend()
    figure.supxlabel("step")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
