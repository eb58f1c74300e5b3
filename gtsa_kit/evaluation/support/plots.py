"""Plots of the evaluations: bar charts of reports, and grids of images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.support.report import CHANCE, Report
from gtsa_kit.figures import BASELINE, HATCHES, PALETTE, RANDOM, axes_grid, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TEXT = 28
"""Longest text above or below an image, in characters."""


def image_grid(columns: int, rows: int, width: float = 2.0, height: float = 1.7) -> "Figure":
    """Create an `axes_grid` for images: without ticks and frames."""
    figure = axes_grid(columns, rows, width, height)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def show_image(axis: "Axes", image: Image.Image, title: str = "", name: str = "") -> None:
    """Draw an image, pixel by pixel, with a title above and a name below it."""
    axis.imshow(np.asarray(image), interpolation="nearest")
    axis.set_title(shorten(title), fontsize=8)
    axis.set_xlabel(shorten(name), fontsize=7, labelpad=2)


def shorten(text: str, length: int = MAX_TEXT) -> str:
    """Return a printable text of at most `length` characters; the end of a path identifies an image better."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return line if len(line) <= length else "…" + line[1 - length :]


def shorten_name(model: str) -> str:
    """Return the name of a model for a legend."""
    return shorten(model, 60)


@figure_style()
def bar_chart(
    report: Report, measures: Mapping[str, str], ylabel: str, reference: tuple[float, str] | None = None
) -> "Figure":
    """Draw a group of bars for each measure, with a bar for each model, on an axis from 0.

    A bar is the mean over seeds, with its value above it. The black line is the mean 95% interval of the rows, dots are
    seeds (where there are several), and dashed lines are the chance level. Random weights are gray.

    Args:
        report: Report whose rows hold the measures, and `<key>_low` and `<key>_high` where there is an interval.
        measures: Keys of the measures, in order, to the labels below the groups.
        ylabel: Label of the vertical axis.
        reference: Value and name of a further dashed line.
    """
    names = [name for name in dict.fromkeys(row["model"] for row in report.rows) if name != CHANCE]
    figure = axes_grid(1, 1, max(5.0, 1.5 + len(measures) * (0.5 + 0.35 * len(names))), 3.4)
    [axis] = figure.axes
    width, centers = 0.8 / max(len(names), 1), np.arange(len(measures))
    marks: dict[str, Any] = {}  # by name in the legend, one of each kind
    for index, name in enumerate(names):
        x = centers + (index - (len(names) - 1) / 2) * width
        marks |= _draw_bars(axis, report, index, name, list(measures), x, width)
    chance = next((line for line in report.summary() if line["model"] == CHANCE), {})
    for center, key in zip(centers, measures, strict=True):
        if chance.get(key) is not None:
            marks["chance"] = _draw_level(axis, [center - 0.45, center + 0.45], chance[key], "--")
    if reference:
        marks[reference[1]] = _draw_level(axis, [-0.5, len(measures) - 0.5], reference[0], ":")
    axis.set_xticks(centers, list(measures.values()))
    axis.set_xlim(-0.55, len(measures) - 0.45)
    axis.set_ylabel(ylabel)
    axis.set_ylim(bottom=0)
    axis.set_title(report.title)
    # Named one by one: matplotlib leaves out labels that begin with an underscore.
    marks = {name: marks[name] for name in map(shorten_name, names)} | marks  # models first
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=3)
    return figure


def bar_style(name: str, index: int) -> dict[str, Any]:
    """Return the color and the hatch of a model's bars: its own among the first 36 models, gray for random weights."""
    hatch = HATCHES[(index + index // len(PALETTE)) % len(HATCHES)]
    color = RANDOM if name.startswith("random") else PALETTE[index % len(PALETTE)]
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white" if color != RANDOM else "#707070"}


def _draw_bars(
    axis: "Axes", report: Report, index: int, name: str, keys: list[str], x: np.ndarray, width: float
) -> dict[str, Any]:
    """Draw the bars of one model, one for each measure, at the positions `x`; return the marks by name."""
    values, low, high = (_means(report, name, [f"{key}{end}" for key in keys]) for end in ("", "_low", "_high"))
    marks: dict[str, Any] = {shorten_name(name): axis.bar(x, values, 0.92 * width, **bar_style(name, index))}
    if not np.isnan(low).all():
        middle, half = (low + high) / 2, (high - low) / 2
        marks["95% interval"] = axis.errorbar(x, middle, half, fmt="none", color="black", capsize=3, linewidth=1)
    for position, key, value, top in zip(x, keys, values, np.fmax(values, high), strict=True):
        seeds = _values(report, name, key)
        if len(seeds) > 1:
            style: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 3.5}
            [marks["seed"]] = axis.plot(np.full(len(seeds), position), seeds, "o", **style)
        if not np.isnan(value):
            above = (position, max(top, *seeds))
            axis.annotate(f"{value:.3g}", above, (0, 3), textcoords="offset points", ha="center", fontsize=7)
    return marks


def _draw_level(axis: "Axes", x: list[float], value: float, style: str) -> Any:
    return axis.plot(x, [value, value], style, color=BASELINE, linewidth=1.2)[0]


def _values(report: Report, name: str, key: str) -> list[float]:
    return [row[key] for row in report.rows if row["model"] == name and row.get(key) is not None]


def _means(report: Report, name: str, keys: list[str]) -> np.ndarray:
    """Return the means of some columns over the seeds of a model, NaN where a column has no value."""
    columns = [_values(report, name, key) for key in keys]
    return np.array([np.mean(column) if column else np.nan for column in columns])
