"""Results of the GPU checks: one record for each part, written as JSON and as a Markdown table after every part."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""One line of a part: `what`, and some of `value`, `unit`, `aim`, `ok`, `note`. An `ok` of False fails the part."""

PASSED, FAILED, LACKING, CUT_OFF, NOT_STARTED = "passed", "FAILED", "lacking", "cut off", "not started"
LACKS, NOT_MEASURED = "lacks", "no time for"
"""Names of the rows that say what is missing (`value`) for what (`note`), and what there was no time for (`note`)."""


@dataclass
class PartResult:
    """Result of one part."""

    name: str
    status: str
    """One of `PASSED`, `FAILED`, `LACKING`, `CUT_OFF` (by the end of the whole run) and `NOT_STARTED`."""
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


def read_rows(path: Path) -> list[Row]:
    """Read the rows that a part wrote, except a last line that was cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def judge(exit_code: int, rows: Sequence[Row], log_tail: str) -> tuple[str, str]:
    """Return status and reason of a part that ended by itself, by its exit code and rows."""
    lacking = [row["value"] for row in rows if row["what"] == LACKS]
    failed = [row["what"] for row in rows if row.get("ok") is False]
    if exit_code != 0:
        return FAILED, log_tail.strip().splitlines()[-1] if log_tail.strip() else f"exit code {exit_code}"
    if failed:
        return FAILED, "; ".join(failed)
    reasons = [f"lacks {value}" for value in dict.fromkeys(lacking)]
    reasons += [f"{NOT_MEASURED} {row['note']}" for row in rows if row["what"] == NOT_MEASURED]
    return LACKING if lacking and len(lacking) == len(rows) else PASSED, "; ".join(reasons)


def write_results(out: Path, machine: Mapping[str, Any], parts: Sequence[PartResult]) -> None:
    """Write results.json and results.md atomically."""
    content = {"machine": dict(machine), "parts": [asdict(part) for part in parts]}
    for name, text in (("results.json", json.dumps(content, indent=2)), ("results.md", as_markdown(machine, parts))):
        temporary = out / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, out / name)


def as_markdown(machine: Mapping[str, Any], parts: Sequence[PartResult]) -> str:
    """Return the machine, a table of the parts, and a table of the rows of each part."""
    lines = [f"{name}: {value}  " for name, value in machine.items()]
    lines += ["", "| part | result | seconds | reason |", "|---|---|---|---|"]
    lines += [f"| {part.name} | {part.status} | {part.seconds:.0f} | {_one_line(part.reason)} |" for part in parts]
    for part in parts:
        if part.rows:
            lines += ["", f"### {part.name}", "", "| what | value | aim | |", "|---|---|---|---|"]
            lines += [_markdown_row(row) for row in part.rows]
    return "\n".join(lines) + "\n"


def _markdown_row(row: Row) -> str:
    value = row.get("value", "")
    number = f"{value:.4g}" if isinstance(value, float) else str(value)
    verdict = {True: "passed", False: "FAILED"}.get(row.get("ok"), "")  # type: ignore[arg-type]
    remark = ". ".join(part for part in (verdict, str(row.get("note", ""))) if part)
    columns = (row["what"], f"{number} {row.get('unit', '')}".strip(), row.get("aim", ""), remark)
    return "| " + " | ".join(_one_line(str(column)) for column in columns) + " |"


def shorten(text: str, width: int) -> str:
    """Return a text as one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
