"""Reports as bar charts: of one measure, of several."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gtsa_kit.evaluation.support.figures import save
from gtsa_kit.evaluation.support.report import Report

CHANCE = "(chance)"
"""The row of a report that is no model, drawn as dashes across the bars."""


def bar_chart(report: Report, key: str, out: Path) -> None:
    """A bar for each model: the mean over seeds, a dot for each seed, and the 95% interval of one run.

    Args:
        report: Rows hold `key`, and `<key>_low` and `<key>_high` where there is an interval.
        key: A measure.
        out: PNG.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["model"] for row in report.rows))
    figure = Figure(figsize=(7.0, 1.1 + 0.45 * len(names)), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        rows = [row for row in report.rows if row["model"] == name and row.get(key) is not None]
        if not rows:
            continue
        values = np.array([row[key] for row in rows])
        axis.barh(place, values.mean(), height=0.6, color="#7aa6c2")
        ends = [(row[f"{key}_low"], row[f"{key}_high"]) for row in rows if row.get(f"{key}_low") is not None]
        if ends:
            low, high = np.mean(ends, axis=0)
            axis.errorbar((low + high) / 2, place, xerr=(high - low) / 2, color="black", capsize=4, linestyle="none")
        if len(values) > 1:
            axis.plot(values, np.full(len(values), place), "o", color="#20425a", markersize=3)
        axis.annotate(f"{values.mean():.1f}", (0, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel(f"{report.measures[key]}; line: 95% interval of one run; dots: seeds", fontsize=9)
    axis.set_title(report.title, fontsize=10)
    save(figure, out)


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
