"""Tables of the benchmark study: means over seeds, the distance between methods, teacher and student by checkpoint."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from gtsa_kit.files import read_json_lines
from study.settings import MASKS, MEASURES, RANDOM, REFERENCE

Rows = Sequence[Mapping[str, Any]]
"""A row for each model: `method`, `seed`, and the `values` by measure, one for each seed of the probe."""


def summarize(rows: Rows) -> list[dict[str, Any]]:
    """Return a line for each method: means over the seeds of the probe, then over the pretraining seeds.

    Returns:
        Lines with a value for each measured `key`, and with `<key>_interval`, half of the 95% confidence interval
        (None for random weights, or without any method with two seeds). `cost` is that of a step in units of GTSA's.
    """
    lines = []
    rates = {m: r for m in {row["method"] for row in rows} if (r := _training_rate(rows, m))}
    for method in dict.fromkeys(row["method"] for row in rows):
        line: dict[str, Any] = {"method": method, "seeds": sum(row["method"] == method for row in rows)}
        if method in rates and REFERENCE in rates:
            line["cost"] = rates[REFERENCE] / rates[method]
        for key in MEASURES:
            if means := seed_means(rows, method, key):
                line[key] = statistics.fmean(means)
                line[f"{key}_interval"] = None if method == RANDOM else _interval(rows, key, len(means))
        lines.append(line)
    return lines


def seed_means(rows: Rows, method: str, key: str) -> list[float]:
    """Return the mean over seeds of the probe, for each pretraining seed of a method."""
    return [statistics.fmean(row["values"][key]) for row in rows if row["method"] == method and key in row["values"]]


def pooled_deviation(rows: Rows, key: str) -> tuple[float, int] | None:
    """Return the standard deviation between pretraining seeds, pooled over methods, and its degrees of freedom.

    Two seeds say little about the deviation of one method; all methods together say it with some certainty, if they
    have a common one. Random weights are left out. None without any method with two seeds.
    """
    groups = [seed_means(rows, method, key) for method in {row["method"] for row in rows} - {RANDOM}]
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    return math.sqrt(sum((len(group) - 1) * statistics.variance(group) for group in groups) / freedom), freedom


def _interval(rows: Rows, key: str, seeds: int) -> float | None:
    """Return half of the 95% confidence interval of a mean over `seeds` pretraining seeds."""
    if (pooled := pooled_deviation(rows, key)) is None:
        return None
    from scipy import stats

    deviation, freedom = pooled
    return float(stats.t.ppf(0.975, freedom)) * deviation / math.sqrt(seeds)


def compare_on_masks(rows: Rows, first: str = REFERENCE) -> list[dict[str, Any]]:
    """Return the distance of a method to each other one on each measure of masks, in standard errors.

    The standard error is that of the difference of two means over pretraining seeds, with the pooled deviation.
    """
    compared = []
    for key in MASKS:
        own, pooled = seed_means(rows, first, key), pooled_deviation(rows, key)
        for name in dict.fromkeys(row["method"] for row in rows):
            values = seed_means(rows, name, key)
            if name in (first, RANDOM) or not values or not own:
                continue
            distance = statistics.fmean(own) - statistics.fmean(values)
            error = pooled[0] * math.sqrt(1 / len(own) + 1 / len(values)) if pooled else None
            line = {"measure": key, "first": first, "method": name, "ahead": distance, "standard_error": error}
            compared.append(line)
    return compared


def print_compared(compared: Iterable[Mapping[str, Any]]) -> None:
    """Print the distances between methods."""
    for one in compared:
        error = "one seed" if one["standard_error"] is None else f"standard error {one['standard_error']:.2f}"
        print(f"{one['measure']}: {one['first']} is {one['ahead']:+.2f} points ahead of {one['method']} ({error})")


def as_table(lines: Rows) -> Table:
    """Return a table for the terminal: a line for each measure."""
    table = Table(title="mean ± half of the 95% confidence interval (deviation between seeds pooled over methods)")
    table.add_column("measure")
    for line in lines:
        table.add_column(f"{line['method']} ({line['seeds']})", justify="right")
    for key in _measured(lines):
        table.add_row(MEASURES[key], *(_format(line, key) for line in lines))
    return table


def as_markdown(lines: Rows) -> str:
    """Return a table in Markdown: a line for each method."""
    keys = _measured(lines)
    head = "| method (seeds) | " + " | ".join(MEASURES[key] for key in keys) + " | cost of a step |"
    rule = "|---|" + "---|" * (len(keys) + 1)
    body = [
        "| "
        + " | ".join([f"{line['method']} ({line['seeds']})", *(_format(line, k) for k in keys), _cost(line)])
        + " |"
        for line in lines
    ]
    return "\n".join([head, rule, *body]) + "\n"


def _training_rate(rows: Rows, method: str) -> float | None:
    """Return the mean over seeds of the images per second of training, or None for random weights."""
    rates = [row["images_per_second"] for row in rows if row["method"] == method and "images_per_second" in row]
    return statistics.fmean(rates) if rates else None


def _measured(lines: Rows) -> list[str]:
    return [key for key in MEASURES if any(key in line for line in lines)]


def _format(line: Mapping[str, Any], key: str) -> str:
    """Format a mean with half of its confidence interval; some methods are measured by fewer probes."""
    if key not in line:
        return ""
    interval = line[f"{key}_interval"]
    return f"{line[key]:.1f}" + (f" ± {interval:.1f}" if interval is not None else "")


def _cost(line: Mapping[str, Any]) -> str:
    return f"{line['cost']:.2f}" if "cost" in line else ""


def stages_table(rows: Rows) -> Table:
    """Build the table of teacher and student at each checkpoint: means over the seeds."""
    table = Table("method", "step", "teacher", "student", title=MEASURES["camvid_tiles"], box=None)
    for method, step in dict.fromkeys((row["method"], row["step"]) for row in rows):
        texts = []
        for branch in ("teacher", "student"):
            own = [r for r in rows if (r["method"], r["step"], r["branch"]) == (method, step, branch)]
            texts.append(f"{statistics.fmean(v for r in own for v in r['values']['camvid_tiles']):.1f}")
        table.add_row(method, str(step), *texts)
    return table


def list_stages(rows: Rows) -> list[dict[str, Any]]:
    """Return a line for teacher and student at each checkpoint of each run that has them."""
    return [{"method": row["method"], "seed": row["seed"]} | stage for row in rows for stage in row.get("stages", [])]


def print_region_loss(rows: Rows) -> None:
    """Print the analysis of the region loss of each run that has it."""
    for row in rows:
        if "region_loss" in row:
            losses = ", ".join(f"{key} {value:.3f}" for key, value in row["region_loss"].items())
            print(f"{row['method']}, seed {row['seed']}, region loss: {losses}")
            print(f"{row['method']}, seed {row['seed']}, correspondence recall@1: {row['recall_by_layer']}")


def training_seconds(run: Path) -> float:
    """Return the training time of a run; the logged seconds restart at each resumption, so their maxima are summed."""
    seconds = [row["seconds"] for row in read_json_lines(run / "metrics.jsonl")]
    ends = [a for a, b in pairwise(seconds) if b < a]
    return sum(ends) + seconds[-1]


def training_rate(run: Path) -> float:
    """Return the median of the logged images per second of a run, which other work on the machine disturbs least."""
    return statistics.median(row["images_per_second"] for row in read_json_lines(run / "metrics.jsonl"))
