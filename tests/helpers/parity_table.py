"""Parity table at the end of a test run, with the rows of all workers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gtsa_kit.export.manifest import Manifest

COLUMNS = "model|graph|format|precision|max abs|mean abs|min cosine|neighbors or classes|shapes|".split("|")
ROWS: list[list[str]] = []


@pytest.fixture
def matrix(record_property: Callable[[str, object], None]) -> "Callable[[str, Manifest], None]":
    """Add a graph's report to the table."""

    def add(graph: str, manifest: "Manifest") -> None:
        record_property("parity", row_of(graph, manifest))

    return add


def row_of(graph: str, manifest: "Manifest") -> list[str]:
    """Return the row as text, which workers can send."""
    assert manifest.parity
    differences = manifest.parity.differences
    shapes = {(d.batch, d.height, d.width) for d in differences}
    return [
        manifest.architecture["name"],
        graph,
        manifest.format,
        manifest.precision,
        f"{max(d.max_abs or 0 for d in differences):.1e}",
        f"{max(d.mean_abs or 0 for d in differences):.1e}",
        f"{min((d.min_cosine for d in differences if d.min_cosine is not None), default=1):.7f}",
        f"{min((d.neighbors or d.agreement for d in differences if d.neighbors or d.agreement), default=1):.3f}",
        " ".join(f"{b}x{h}x{w}" for b, h, w in sorted(shapes)),
        "passed" if manifest.parity.passed else "FAILED",
    ]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        ROWS.extend(row for name, row in report.user_properties if name == "parity")


def pytest_terminal_summary() -> None:
    if not ROWS:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, title="parity: worst over all outputs, sizes and batches", title_justify="left", box=None)
    for row in sorted(ROWS):
        table.add_row(*row)
    Console(width=200).print(table)
