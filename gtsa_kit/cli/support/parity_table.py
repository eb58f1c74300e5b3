"""Parity reports as text."""

from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.spec import BOXES, LOGITS, MASK

if TYPE_CHECKING:
    from rich.table import Table

    from gtsa_kit.export.manifest_records import TaskScoreRecord
    from gtsa_kit.export.parity_report import Difference, ParityReport


def parity_table(report: "ParityReport") -> "Table":
    """Build a table with a row for each output and input shape; it fits 80 columns."""
    from rich.table import Table

    table = Table(title=f"parity on {report.images} ({report.runtime})", title_justify="left", box=None)
    detects = report.differences[0].output == BOXES
    is_task = detects or report.differences[0].output in (LOGITS, MASK)
    shares = ("matched" if detects else "same class",) if is_task else ("min cosine", "neighbors")
    for name in ("output", "shape", "max abs", "mean abs", *shares, ""):
        table.add_column(name, justify="left" if name in ("output", "") else "right", no_wrap=True)
    for d in report.differences:
        errors = ["" if value is None else f"{value:.1e}" for value in (d.max_abs, d.mean_abs)]
        values = [_share(d.agreement, 5)] if is_task else [_share(d.min_cosine, 7), _share(d.neighbors, 4)]
        if d.problem:
            values[0] = d.problem.partition(" for ")[0]
        shape = f"{d.batch}x{d.height}x{d.width}"
        table.add_row(d.output, shape, *errors, *values, "passed" if d.passed else "FAILED")
    return table


def failure_message(path: Path, report: "ParityReport") -> str:
    """Describe the worst difference of an artifact that failed the parity gate."""
    if report.preprocessing:
        return f"{path} has a preprocessing that differs from the encoder's: {report.preprocessing}"
    if report.problem:
        return f"{path} can't be compared: {report.problem}"
    worst = report.worst
    where = f"{worst.output} at {worst.batch} x {worst.height} x {worst.width}"
    if report.advice:
        first, separator, rest = report.advice.partition("; ")
        if first.startswith("not finite"):
            return f"{path} is {first} ({where}, on {worst.image}){separator}{rest}"
        return f"{path} is not finite: {where}, on {worst.image}, {report.advice}"
    if worst.problem:
        return f"{path} differs from the encoder: {where} has {worst.problem}"
    return f"{path} differs from the encoder: {where}, {measures(worst)}, worst on {worst.image or 'every image'}"


def measures(d: "Difference") -> str:
    """Return the measures of a difference as text, such as "cosine 0.9999998, max 1.00e-05"."""
    parts = {
        f"cosine {d.min_cosine or 0:.7f}": d.min_cosine is not None,
        f"{'same class' if d.detections is None else 'matched'} {100 * (d.agreement or 0):.3f}%": d.agreement
        is not None,
        f"max {d.max_abs or 0:.2e}": d.max_abs is not None,
    }
    return ", ".join(part for part, measured in parts.items() if measured)


def score_text(score: "TaskScoreRecord") -> str:
    """Return a task score as text."""
    return (
        f"{'passed' if score.passed else 'FAILED'} on {score.images} images of {score.data}: {score.metric} "
        f"{score.artifact:.2f}%, float32 model {score.source:.2f}%, at most {score.max_drop:g} points lower"
    )


def _share(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
