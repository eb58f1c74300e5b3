"""Tables of the benchmark study: means over seeds, the distance between methods, teacher and student by checkpoint."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from gtsa_kit.files import read_json_lines
from study.settings import MASKS, MEASURES, RANDOM


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each method: means over the seeds of the probe, then over the pretraining seeds.

    `<key>_half_range` is half the range over the pretraining seeds (None for one seed), and `<key>_probe_std` the
    standard deviation over the seeds of the probe (None for one seed).
    """
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [row["values"] for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "seeds": len(runs)}
        for key in present_measures(runs[0]):
            means = [statistics.fmean(values[key]) for values in runs]
            line[key] = statistics.fmean(means)
            line[f"{key}_half_range"] = (max(means) - min(means)) / 2 if len(means) > 1 else None
            deviations = [statistics.stdev(values[key]) for values in runs if len(values[key]) > 1]
            line[f"{key}_probe_std"] = statistics.fmean(deviations) if deviations else None
        lines.append(line)
    return lines


def present_measures(values: Mapping[str, Any]) -> list[str]:
    """Return the keys of the measures that `values` holds; some scales leave out probes."""
    return [key for key in MEASURES if key in values]


def as_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table for the terminal."""
    table = Table(title="mean ± half the range over pretraining seeds (standard deviation over seeds of the probe)")
    table.add_column("measure")
    for line in lines:
        table.add_column(f"{line['method']} ({line['seeds']})", justify="right")
    for key in present_measures(lines[0]):
        table.add_row(MEASURES[key], *(format_value(line, key) for line in lines))
    return table


def as_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a table in Markdown."""
    head = "| | " + " | ".join(f"{line['method']} ({line['seeds']})" for line in lines) + " |"
    rule = "|---|" + "---|" * len(lines)
    rows = [
        "| " + " | ".join([MEASURES[key], *(format_value(line, key) for line in lines)]) + " |"
        for key in present_measures(lines[0])
    ]
    return "\n".join([head, rule, *rows]) + "\n"


def format_value(line: Mapping[str, Any], key: str) -> str:
    """Format a mean with half its range over pretraining seeds, and its standard deviation over probe seeds."""
    half_range = line[f"{key}_half_range"]
    text = f"{line[key]:.1f}" + (f" ± {half_range:.1f}" if half_range is not None else "")
    deviation = line[f"{key}_probe_std"]
    return text if deviation is None else f"{text} ({deviation:.1f})"


def compare_on_masks(rows: Sequence[Mapping[str, Any]], first: str = "gtsa") -> list[dict[str, Any]]:
    """Return the distance of a method to each other one on each measure of masks, in standard errors.

    The standard error is that of the difference of two means over pretraining seeds. With two seeds it is coarse, so
    that a distance of more than two is needed to call one of them better.
    """
    compared = []
    for key in MASKS:
        means = {name: _seed_means(rows, name, key) for name in dict.fromkeys(row["method"] for row in rows)}
        for name, values in means.items():
            if name in (first, RANDOM) or not values or not means.get(first):
                continue
            own, distance = means[first], statistics.fmean(means[first]) - statistics.fmean(values)
            enough = len(own) > 1 and len(values) > 1
            error = math.sqrt(sum(statistics.variance(v) / len(v) for v in (own, values))) if enough else None
            compared.append({"measure": key, "method": name, "ahead": distance, "standard_error": error})
    return compared


def _seed_means(rows: Sequence[Mapping[str, Any]], method: str, key: str) -> list[float]:
    """Return the mean over seeds of the probe, for each pretraining seed of a method."""
    return [statistics.fmean(row["values"][key]) for row in rows if row["method"] == method and key in row["values"]]


def stages_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of teacher and student at each checkpoint: means over the seeds."""
    table = Table("method", "step", "teacher", "student", title=MEASURES["camvid_tiles"], box=None)
    for method, step in dict.fromkeys((row["method"], row["step"]) for row in rows):
        texts = []
        for branch in ("teacher", "student"):
            own = [r for r in rows if (r["method"], r["step"], r["branch"]) == (method, step, branch)]
            texts.append(f"{statistics.fmean(v for r in own for v in r['values']['camvid_tiles']):.1f}")
        table.add_row(method, str(step), *texts)
    return table


def print_region_loss(
    recalls: Mapping[str, Mapping[str, Mapping[str, float]]], controls: Mapping[str, Mapping[str, float]]
) -> None:
    """Print the results of the region loss analysis by run."""
    for name, recall in recalls.items():
        print(f"{name}, correspondence recall@1: {recall}")
    for name, values in controls.items():
        print(f"{name}, region loss: {_format_losses(values.items())}")


def _format_losses(values: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in values)


def training_seconds(run: Path) -> float:
    """Return the training time of a run; the logged seconds restart at each resumption, so their maxima are summed."""
    seconds = [row["seconds"] for row in read_json_lines(run / "metrics.jsonl")]
    ends = [a for a, b in pairwise(seconds) if b < a]
    return sum(ends) + seconds[-1]
