"""Plots of the evaluations: bar charts of reports, grids of axes, images on axes, and writing the PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = "(chance)"
"""Model name of the report row that holds the chance level; it is drawn as dashed lines across the bars."""


def axes_grid(columns: int, rows: int, width: float = 2.2, height: float = 1.6) -> "Figure":
    """Create a figure with a grid of axes, which `figure.axes` lists row by row.

    Args:
        columns, rows: Numbers of axes.
        width, height: Size of one of the axes, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns, squeeze=False)
    return figure


def image_grid(columns: int, rows: int, width: float = 2.2, height: float = 1.6) -> "Figure":
    """Create an `axes_grid` for images: without ticks and frames."""
    figure = axes_grid(columns, rows, width, height)
    for axis in figure.axes:
        axis.axis("off")
    return figure


def show_image(axis: "Axes", image: Image.Image, title: str = "") -> None:
    """Draw an image, pixel by pixel, under a title."""
    axis.imshow(np.asarray(image), interpolation="nearest")
    axis.set_title(title, fontsize=8)


def save_figure(figure: "Figure", out: Path) -> None:
    """Write a figure as PNG; the folder is created if needed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        figure.savefig(file, format="png", dpi=110)


def bar_chart(report: Report, measures: Mapping[str, str], out: Path, ylabel: str, log: bool = False) -> None:
    """Draw a group of bars for each measure, with a bar for each model, and write it as PNG.

    A bar is the mean over seeds, with its value above it. The black line is the mean 95% interval of the rows, dots are
    seeds (where there are several), and dashed lines are the chance level.

    Args:
        report: Report whose rows hold the measures, and `<key>_low` and `<key>_high` where there is an interval.
        measures: Keys of the measures, in order, to the labels below the groups.
        out: Path of the PNG.
        ylabel: Label of the vertical axis.
        log: Whether the vertical axis is logarithmic, for measures of very different size.
    """
    names = [name for name in dict.fromkeys(row["model"] for row in report.rows) if name != CHANCE]
    figure = axes_grid(1, 1, max(5.0, 1.5 + len(measures) * (0.5 + 0.3 * len(names))), 3.6)
    [axis] = figure.axes
    width, centers = 0.8 / max(len(names), 1), np.arange(len(measures))
    for index, name in enumerate(names):
        _draw_bars(axis, report, name, list(measures), centers + (index - (len(names) - 1) / 2) * width, width * 0.92)
    chance = _means(report, CHANCE, list(measures))
    for center, value in zip(centers, chance, strict=True):
        axis.plot([center - 0.45, center + 0.45], [value, value], "--", color="black", linewidth=1)
    if not np.isnan(chance).all():
        axis.plot([], [], "--", color="black", linewidth=1, label=CHANCE)
    axis.set_xticks(centers, list(measures.values()))
    axis.set_ylabel(ylabel, fontsize=9)
    if log:
        axis.set_yscale("log", nonpositive="clip")
    else:
        axis.set_ylim(bottom=0)
    axis.set_title(report.title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    save_figure(figure, out)


def _draw_bars(axis: "Axes", report: Report, name: str, keys: list[str], x: np.ndarray, width: float) -> None:
    """Draw the bars of one model, one for each measure, at the positions `x`."""
    values, low, high = (_means(report, name, [f"{key}{end}" for key in keys]) for end in ("", "_low", "_high"))
    axis.bar(x, values, width, label=name)
    axis.errorbar(x, (low + high) / 2, (high - low) / 2, fmt="none", color="black", capsize=2, linewidth=0.8)
    for position, key, value, top in zip(x, keys, values, np.fmax(values, high), strict=True):
        seeds = _values(report, name, key)
        if len(seeds) > 1:
            axis.plot(np.full(len(seeds), position), seeds, "o", color="#20425a", markersize=2.5)
        if not np.isnan(value):
            above = (position, max(top, *seeds))
            text = axis.annotate(f"{value:.3g}", above, (0, 2), textcoords="offset points", ha="center", fontsize=7)
            text.set_annotation_clip(True)  # a bar of 0 lies outside of logarithmic axes


def _values(report: Report, name: str, key: str) -> list[float]:
    return [row[key] for row in report.rows if row["model"] == name and row.get(key) is not None]


def _means(report: Report, name: str, keys: list[str]) -> np.ndarray:
    """Return the means of some columns over the seeds of a model, NaN where a column has no value."""
    columns = [_values(report, name, key) for key in keys]
    return np.array([np.mean(column) if column else np.nan for column in columns])
