"""Tables and plots of the benchmark study."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gtsa_kit.figures import BASELINE, LINE_STYLES, MARKERS, PALETTE, RANDOM, axes_grid, figure_style
from gtsa_kit.files import read_json_lines
from study_parts.settings import MEASURES, Run

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


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each method: means over the seeds of the probe, then over the pretraining seeds.

    `<key>_half_range` is half the range over the pretraining seeds (None for one seed), and `<key>_probe_std` the
    standard deviation over the seeds of the probe.
    """
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [row["values"] for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "seeds": len(runs)}
        for key in present_measures(runs[0]):
            means = [statistics.fmean(values[key]) for values in runs]
            line[key] = statistics.fmean(means)
            line[f"{key}_half_range"] = (max(means) - min(means)) / 2 if len(means) > 1 else None
            line[f"{key}_probe_std"] = statistics.fmean(statistics.stdev(values[key]) for values in runs)
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
    return f"{text} ({line[f'{key}_probe_std']:.1f})"


LEVELS = {"effective_rank": (1, "collapse"), "feature_std": (0, "collapse"), "rotation_accuracy": (0.25, "chance")}
"""Level of a panel that is drawn as a dashed line, with its name."""


@figure_style()
def draw_probes(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw a panel for each measure, with a mark for each run and its standard deviation over seeds of the probe."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    keys = [key for key in present_measures(rows[0]["values"]) if not key.endswith("rank")]
    figure = axes_grid(3, -(-len(keys) // 3), width=2.6, height=2.2)
    for unused in figure.axes[len(keys) :]:
        unused.remove()
    for axis, key in zip(figure.axes, keys, strict=True):
        for row in rows:
            _draw_run(axis, row, key, methods.index(row["method"]))
        axis.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
        axis.set_title(MEASURES[key])
        if key == "rotation":
            axis.axhline(25, linestyle="--", linewidth=1, color=BASELINE, label="chance")
            axis.legend()
        axis.set_ylim(bottom=0)
        axis.grid(axis="y")
    figure.supxlabel("a mark: one run, mean over the seeds of the probe; line: their standard deviation", fontsize=8)
    return figure


def _draw_run(axis: "Axes", row: Mapping[str, Any], key: str, method: int) -> None:
    """Draw the result of one run as a mark with its deviation; `method` is the number of its method."""
    values = row["values"][key]
    axis.errorbar(
        method + 0.2 * row["seed"],
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else 0.0,
        fmt=MARKERS[method % len(MARKERS)],
        color=RANDOM if row["method"] == "random" else PALETTE[method % len(PALETTE)],
        capsize=3,
        ecolor="#404040",
        elinewidth=1,
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
