"""Rounds in which the contestants of a job take turns; each measurement is a file, so that a run can go on."""

import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from gtsa_kit.files import write_json
from peers_parts.environments import PeerError

Measurement = dict[str, Any]
"""Figures and texts by name; of a contestant that failed "error" alone."""


@dataclass(frozen=True)
class Contestant:
    """A tool that does a job."""

    name: str
    measure: Callable[[Path], Measurement]
    """Does the job once, in an empty folder; raises `PeerError` with the reason if it can't."""
    rival: str = ""
    """Name of our contestant that it is compared with; "" for ours."""


@dataclass(frozen=True)
class Column:
    """Column of a job's table."""

    key: str
    title: str
    digits: int = 2


@dataclass(frozen=True)
class Job:
    """A job that several tools do."""

    name: str
    title: str
    columns: tuple[Column, ...]
    ratios: tuple[tuple[str, bool], ...]
    """Measures of which ours is divided by the peer's, and whether more of it is better."""
    contestants: tuple[Contestant, ...]


Rounds = dict[str, list[Measurement]]
"""Measurements of each contestant, one for each round until it failed."""


def run_rounds(job: Job, rounds: int, folder: Path, on_done: Callable[[str, int, Measurement], None]) -> Rounds:
    """Let the contestants of a job take turns, and skip the measurements that `folder` holds from an earlier run.

    A contestant that fails is not tried again in later rounds; the next run tries it again.

    Args:
        job: The job.
        rounds: Number of rounds.
        folder: Folder of the measurements.
        on_done: Called with name, round and measurement after each measurement.
    """
    results: Rounds = {contestant.name: [] for contestant in job.contestants}
    for index in range(rounds):
        for contestant in job.contestants:
            done = results[contestant.name]
            if done and "error" in done[-1]:
                continue
            done.append(measure_once(contestant, index, folder / job.name, on_done))
    return results


def stored_rounds(job: Job, folder: Path) -> Rounds:
    """Return the measurements of a job that `folder` holds, and measure nothing."""
    results: Rounds = {contestant.name: [] for contestant in job.contestants}
    for name, done in results.items():
        while (file := result_file(folder / job.name, name, len(done))).exists():
            done.append(json.loads(file.read_text()))
    return results


def result_file(folder: Path, name: str, index: int) -> Path:
    """Return the file of a contestant's measurement in a round."""
    return folder / f"{name.replace('/', '-').replace(' ', '_')}.{index}.json"


def measure_once(
    contestant: Contestant, index: int, folder: Path, on_done: Callable[[str, int, Measurement], None]
) -> Measurement:
    """Return the stored measurement of a round, or measure and store it; failures are not stored."""
    file = result_file(folder, contestant.name, index)
    work = file.with_suffix("")
    if file.exists():
        stored: Measurement = json.loads(file.read_text())
        return stored
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        measurement = contestant.measure(work)
        write_json(file, measurement)
        shutil.rmtree(work)
    except PeerError as error:
        measurement = {"error": str(error)}
    on_done(contestant.name, index, measurement)
    return measurement


def summarize(job: Job, results: Rounds) -> list[Measurement]:
    """Return a row for each contestant: medians of its figures, its texts, and how far ours is ahead.

    The key "ahead" holds the median over the rounds of ours divided by the peer's, or the peer's divided by ours where
    less is better, by measure: above 1 ours is ahead.
    """
    rows = []
    for contestant in job.contestants:
        own = results[contestant.name]
        failed = [measurement["error"] for measurement in own if "error" in measurement]
        if failed or not own:
            rows.append({"name": contestant.name, "error": failed[-1] if failed else "not measured"})
            continue
        row: Measurement = {"name": contestant.name, "rounds": len(own)}
        for key, value in own[0].items():
            numbers = is_number(value)
            row[key] = statistics.median(measurement[key] for measurement in own) if numbers else value
        row["ahead"] = ahead(job, own, results.get(contestant.rival, []))
        rows.append(row)
    return rows


def is_number(value: object) -> bool:
    """Return whether a value of a measurement is a figure."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def ahead(job: Job, peer: list[Measurement], ours: list[Measurement]) -> dict[str, float]:
    """Return how far ours is ahead by measure, from the pairs of the same rounds."""
    ratios = {}
    for key, more_is_better in job.ratios:
        pairs = [(a[key], b[key]) for a, b in zip(ours, peer, strict=False) if is_number(a.get(key)) and b.get(key)]
        if pairs:
            ratios[key] = statistics.median(a / b if more_is_better else b / a for a, b in pairs)
    return ratios


def build_table(job: Job, rows: list[Measurement]) -> Table:
    """Return a table of a job's rows."""
    table = Table(title=job.title, title_justify="left", box=None)
    table.add_column("")
    for column in job.columns:
        table.add_column(column.title, justify="right")
    for key, _ in job.ratios:
        table.add_column(f"ours ahead: {key}", justify="right")
    for row in rows:
        table.add_row(*row_texts(job, row))
    return table


def row_texts(job: Job, row: Measurement) -> list[str]:
    """Return the texts of a row; of a contestant that failed its name and the reason."""
    if "error" in row:
        return [row["name"], row["error"]]
    values = [format_value(row.get(column.key), column.digits) for column in job.columns]
    ratios = [format_value(row["ahead"].get(key), 2) for key, _ in job.ratios]
    return [row["name"], *values, *ratios]


def format_value(value: object, digits: int) -> str:
    """Return a cell of the table."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if is_number(value) else str(value)


def markdown(job: Job, rows: list[Measurement]) -> str:
    """Return the table of a job's rows in Markdown; reasons of failures stand below it."""
    titles = ["", *(column.title for column in job.columns), *(f"ours ahead: {key}" for key, _ in job.ratios)]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {' | '.join(row_texts(job, row))} |" for row in rows if "error" not in row]
    reasons = [f"- {row['name']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join([f"**{job.title}**", "", *lines, *(["", *reasons] if reasons else [])])
