"""Training curves: the columns of metrics.jsonl over steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gtsa_kit.figures import BASELINE, axes_grid, figure_style
from gtsa_kit.methods.base import PlotGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMMON_PLOT_GROUPS = (
    PlotGroup("std of patch tokens", ("feature_std",), level=0, level_name="collapse", limits=(0, 1)),
    PlotGroup("effective rank of patch tokens", ("effective_rank",), level=1, level_name="collapse", limits=(0, None)),
    PlotGroup("learning rate", ("lr",), limits=(0, None)),
    PlotGroup("teacher momentum", ("teacher_momentum",), limits=(None, 1)),
    PlotGroup("images per second", ("images_per_second",), limits=(0, None)),
)
"""Plots that all methods have."""
_COLUMNS = 3


@figure_style()
def draw_curves(
    rows: Sequence[Mapping[str, Any]],
    plot_groups: Sequence[PlotGroup],
    common: Sequence[PlotGroup] = COMMON_PLOT_GROUPS,
) -> "Figure":
    """Plot metrics over steps: the loss, the plots of the method or task, and those common to all of them.

    Args:
        rows: Rows of metrics.jsonl; a missing column leaves a gap.
        plot_groups: Plots of the method or task.
        common: Plots of all methods or tasks.
    """
    groups = (PlotGroup("loss", ("loss",)), *plot_groups, *common)
    figure = axes_grid(_COLUMNS, -(-len(groups) // _COLUMNS), width=3.4, height=2.5)
    for axis, group in zip(figure.axes, groups, strict=False):
        _draw_group(axis, rows, group)
    for unused in figure.axes[len(groups) :]:
        unused.remove()
    return figure


def _draw_group(axis: "Axes", rows: Sequence[Mapping[str, Any]], group: PlotGroup) -> None:
    if group.sparse:
        rows = [row for row in rows if any(column in row for column in group.columns)]
    steps = [row["step"] for row in rows]
    marker = "o" if len(rows) == 1 or group.sparse else None  # one point makes no line
    for column in group.columns:
        values = [row.get(column, float("nan")) for row in rows]
        axis.plot(steps, values, label=column.replace("_", " "), marker=marker)
    if group.baseline:
        values = [row.get(group.baseline, float("nan")) for row in rows]
        axis.plot(
            steps, values, "--", color=BASELINE, linewidth=1, marker=marker, label=group.baseline.replace("_", " ")
        )
    if group.level is not None:
        axis.axhline(group.level, color=BASELINE, linewidth=1, linestyle="--", label=group.level_name)
    axis.set_ylim(*group.limits)
    axis.set_title(group.title)
    axis.set_xlabel("step")
    axis.grid()
    if len(axis.lines) > 1:  # below the axes: inside, it would hide parts of lines that fill them
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2, frameon=False)
