"""Plots of the benchmark study."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.figures import BASELINE, LINE_STYLES, MARKERS, PALETTE, RANDOM, axes_grid, figure_style
from gtsa_kit.files import read_json_lines
from study.settings import MEASURES, Run
from study.settings import RANDOM as RANDOM_WEIGHTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING_PANELS = {
    "effective_rank": "effective rank of tokens",
    "feature_std": "std of tokens",
    "region": "region loss",
    "correspondence": "patch correspondence loss",
    "rotation_accuracy": "rotation accuracy",
    "teacher_entropy": "DINO: teacher entropy",
    "divergence": "DINO: divergence from the teacher",
    "contrast_accuracy": "MoCo v3: contrast accuracy",
}
"""Title of each panel, by column of metrics.jsonl."""


LEVELS = {"effective_rank": (1, "collapse"), "feature_std": (0, "collapse"), "rotation_accuracy": (0.25, "chance")}
"""Level of a panel that is drawn as a dashed line, with its name."""


@figure_style()
def draw_probes(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw a panel for each measure, with a line for each method and a mark for each of its runs."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    keys = [key for key in MEASURES if any(key in row["values"] for row in rows)]
    columns = min(2, len(keys))
    figure = axes_grid(columns, -(-len(keys) // columns), width=4.2, height=1.0 + 0.2 * len(methods))
    for unused in figure.axes[len(keys) :]:
        unused.remove()
    for axis, key in zip(figure.axes, keys, strict=True):
        measured = [row for row in rows if key in row["values"]]
        own = [method for method in methods if any(row["method"] == method for row in measured)]
        for row in measured:
            _draw_run(axis, row, key, own.index(row["method"]))
        random = [statistics.fmean(row["values"][key]) for row in measured if row["method"] == RANDOM_WEIGHTS]
        if random:
            axis.axvline(statistics.fmean(random), linestyle="--", linewidth=1, color=BASELINE)
        axis.set_yticks(range(len(own)), own)
        axis.invert_yaxis()
        axis.set_title(MEASURES[key])
        axis.grid()
    seeds = ", ".join(f"{name}: seed {seed}" for seed, name in enumerate(("circle", "square")))
    figure.supxlabel(f"a mark: one run ({seeds}), mean over the seeds of the probe; dashed: random weights", fontsize=8)
    return figure


def _draw_run(axis: "Axes", row: Mapping[str, Any], key: str, line: int) -> None:
    """Draw the result of one run as a mark; `line` is the place of its method, and its seeds lie beside each other."""
    axis.plot(
        statistics.fmean(row["values"][key]),
        line + 0.15 * (row["seed"] - 0.5),
        MARKERS[row["seed"] % len(MARKERS)],
        color=RANDOM if row["method"] == RANDOM_WEIGHTS else PALETTE[row["seed"] % len(PALETTE)],
        markeredgecolor="black",
        markeredgewidth=0.5,
    )


@figure_style()
def draw_training(runs: Mapping[Run, Path]) -> "Figure":
    """Draw the logged collapse metrics of all runs, and the loss terms of each method that is among them."""
    logs = {f"{method} {seed}": read_json_lines(run / "metrics.jsonl") for (method, seed), run in runs.items()}
    logs = {name: log for name, log in logs.items() if log}
    plots = {key: title for key, title in TRAINING_PANELS.items() if any(key in log[0] for log in logs.values())}
    figure = axes_grid(3, -(-len(plots) // 3), width=3.2, height=2.5)
    for unused in figure.axes[len(plots) :]:
        unused.remove()
    for axis, (key, title) in zip(figure.axes, plots.items(), strict=True):
        _draw_curves(axis, logs, key)
        if key in LEVELS:
            level, name = LEVELS[key]
            axis.axhline(level, linestyle="--", linewidth=1, color=BASELINE, label=name)
            axis.set_ylim(bottom=0)
        axis.set(title=title, xlabel="step")
        axis.grid()
        axis.legend(fontsize=6)
    return figure


def _draw_curves(axis: "Axes", logs: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> None:
    for index, (name, log) in enumerate(logs.items()):
        if key not in log[0]:
            continue
        steps, color = [row["step"] for row in log], PALETTE[index % len(PALETTE)]
        style = LINE_STYLES[index % len(LINE_STYLES)]
        axis.plot(steps, [row[key] for row in log], label=name, linestyle=style, linewidth=1, color=color)
        if key == "region":
            baseline = [row["region_loss_constant_baseline"] for row in log]
            axis.plot(steps, baseline, ":", label=f"{name}, constant baseline", linewidth=0.7, color=color)
