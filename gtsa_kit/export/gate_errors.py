"""Errors of the gates, for the public functions; and the score of a file on labeled images."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtsa_kit.export.manifest_records import TaskScoreRecord
    from gtsa_kit.export.parity_report import ParityReport
    from gtsa_kit.export.runtime.runner import Runner
    from gtsa_kit.export.source import Source


class ParityError(RuntimeError):
    """Raised when an exported file differs from the float32 encoder by more than the tolerance of its precision.

    The file and its manifest stay on disk, so that the report can be read.
    """

    def __init__(self, path: Path, report: "ParityReport") -> None:
        worst = report.worst
        detail = f": {report.preprocessing or report.problem}"
        if worst.problem:
            detail = f": {worst.output}: {report.advice or worst.problem}"
        elif not worst.passed:
            unit = "pixels" if worst.detections is None else "detections"
            share = f"{1 - (worst.agreement or 0):.2%} of the {unit}"
            detail = f": {worst.output} differs by {share if worst.max_abs is None else format(worst.max_abs, '.2g')}"
        super().__init__(f"{path} failed the parity gate{detail}; do not use it")
        self.path = path
        self.report = report


class TaskScoreError(RuntimeError):
    """Raised when an exported file scores lower on labeled images than its float32 model, by more than `max_drop`.

    The file stays on disk.
    """

    def __init__(self, path: Path, record: "TaskScoreRecord") -> None:
        super().__init__(
            f"{path} loses {record.drop:.2f} points of {record.metric} on {record.data}, more than {record.max_drop:g}"
        )
        self.path = path
        self.record = record


def score_beside(source: "Source", runner: "Runner", data: Path, max_drop: float) -> "TaskScoreRecord":
    """Score a file beside its float32 model, with the package that lies above this one and knows labeled images."""
    record: TaskScoreRecord = import_module("gtsa_kit.tasks.score_gate").score_beside(source, runner, data, max_drop)
    return record


def raise_if_lower(path: Path, record: "TaskScoreRecord") -> None:
    """Raise `TaskScoreError` for a file that lost more than it may."""
    if not record.passed:
        raise TaskScoreError(path, record)
