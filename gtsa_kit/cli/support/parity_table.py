"""Parity reports as text."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from gtsa_kit.export.parity_report import ParityReport


def parity_table(report: "ParityReport") -> "Table":
    """Build a table with a row for each output and input shape; it fits 80 columns."""
    from rich.table import Table

    table = Table(title=f"parity on {report.images} ({report.runtime})", title_justify="left", box=None)
    for name in ("output", "shape", "max abs", "mean abs", "min cosine", "neighbors", ""):
        table.add_column(name, justify="left" if name in ("output", "") else "right", no_wrap=True)
    for d in report.differences:
        numbers = ("", "", d.problem.partition(" for ")[0])
        if d.max_abs is not None:
            numbers = (f"{d.max_abs:.1e}", f"{d.mean_abs:.1e}", f"{d.min_cosine:.7f}")
        neighbors = "" if d.neighbors is None else f"{d.neighbors:.4f}"
        shape = f"{d.batch}x{d.height}x{d.width}"
        table.add_row(d.output, shape, *numbers, neighbors, "passed" if d.passed else "FAILED")
    return table


def failure_message(path: Path, report: "ParityReport") -> str:
    """Describe the worst difference of an artifact that failed the parity gate."""
    if report.preprocessing:
        return f"{path} has a preprocessing that differs from the encoder's: {report.preprocessing}"
    worst = report.worst
    where = f"{worst.output} at {worst.batch} x {worst.height} x {worst.width}"
    if report.advice:
        first, separator, rest = report.advice.partition("; ")
        if first.startswith("not finite"):
            return f"{path} is {first} ({where}, on {worst.image}){separator}{rest}"
        return f"{path} is not finite: {where}, on {worst.image}, {report.advice}"
    if worst.problem:
        return f"{path} differs from the encoder: {where} has {worst.problem}"
    return (
        f"{path} differs from the encoder: {where}, "
        f"cosine {worst.min_cosine:.6f}, max {worst.max_abs:.2e}, worst on {worst.image or 'every image'}"
    )
