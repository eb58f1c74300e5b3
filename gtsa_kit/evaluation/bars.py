"""Reports of several measures as grouped bars."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gtsa_kit.evaluation.figures import save
from gtsa_kit.evaluation.report import Report

CHANCE = "(chance)"
"""The row of a report that is no model, drawn as dashes across the bars."""


def grouped_bars(report: Report, groups: Mapping[str, str], out: Path, ylabel: str, log: bool = False) -> None:
    """A group of bars for each measure, a bar for each model: the mean over seeds, with its 95% interval.

    Args:
        report: Rows hold the measures, and `<key>_low` and `<key>_high` where there is an interval.
        groups: Measures, in order, and what they are called below the bars.
        out: PNG.
        ylabel: What is measured.
        log: For measures of very different size; a bar of 0 has no height then.
    """
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(row["model"] for row in report.rows) if name != CHANCE]
    figure = Figure(figsize=(max(5.0, 1.5 + len(groups) * (0.5 + 0.3 * len(names))), 3.6), layout="constrained")
    axis = figure.subplots()
    width, places = 0.8 / len(names), np.arange(len(groups))
    for index, name in enumerate(names):
        values, low, high = (_means(report, name, [f"{key}{end}" for key in groups]) for end in ("", "_low", "_high"))
        at = places + (index - (len(names) - 1) / 2) * width
        axis.bar(at, values, width * 0.92, label=name)
        axis.errorbar(at, values, [values - low, high - values], fmt="none", color="black", capsize=2, linewidth=0.8)
    chance = _means(report, CHANCE, list(groups))
    for place, value in zip(places, chance, strict=True):
        axis.plot([place - 0.45, place + 0.45], [value, value], "--", color="black", linewidth=1)
    if not np.isnan(chance).all():
        axis.plot([], [], "--", color="black", linewidth=1, label=CHANCE)
    axis.set_xticks(places, list(groups.values()))
    axis.set_ylabel(ylabel, fontsize=9)
    if log:
        axis.set_yscale("log", nonpositive="clip")
    else:
        axis.set_ylim(bottom=0)
    axis.set_title(report.title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    save(figure, out)


def _means(report: Report, name: str, keys: list[str]) -> np.ndarray:
    """Over seeds; NaN of what is missing."""
    rows = [row for row in report.rows if row["model"] == name]
    values = [[row[key] for row in rows if row.get(key) is not None] for key in keys]
    return np.array([np.mean(some) if some else np.nan for some in values])
