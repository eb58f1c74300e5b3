"""What the evaluations share: their options, and how a report is shown."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gtsa_kit.evaluation.support.report import Report

Models = Annotated[
    list[Path] | None,
    typer.Argument(help="Run folders, weights or exported files, to be compared.", metavar="MODEL..."),
]
Random = Annotated[
    list[str] | None,
    typer.Option("--random", help="Also random weights of this architecture; repeatable.", metavar="ARCH"),
]
Images = Annotated[Path, typer.Option(help="Images: a folder, or a text file of paths.", metavar="FOLDER")]
Out = Annotated[Path, typer.Option(help="Folder for the report and its pictures.", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]
Size = Annotated[
    int | None, typer.Option(min=16, help="Side of the square input, in pixels. Default: what the model was made for.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Repetitions, with seeds 0, 1, ...")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def show(report: "Report", out: Path, as_json: bool) -> None:
    """Write the report into a folder, and show it: a table for people on standard error, or JSON on standard output."""
    from rich.table import Table

    from gtsa_kit.cli.support.progress import make_console

    path = report.write(out)
    if as_json:
        json.dump(report.to_dict(), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    table = Table(title=report.title, title_justify="left")
    table.add_column("model", overflow="fold")
    for heading in report.measures.values():
        table.add_column(heading, justify="right")
    for line in report.summary():
        table.add_row(line["model"], *(_cell(line[key], line[f"{key}_std"]) for key in report.measures))
    make_console().print(table)
    make_console().print(f"wrote {path}")


def _cell(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
    return text if deviation is None else f"{text} ± {deviation:.2g}"
