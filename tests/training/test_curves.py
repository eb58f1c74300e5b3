"""Training curves: every plot with its levels, honest axes and a legend for every mark."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gtsa_kit.config import load_config
from gtsa_kit.figures import BASELINE, save_figure
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import PlotGroup
from gtsa_kit.training.curves import COMMON_PLOT_GROUPS, draw_curves

CONSTANT = {
    "lr": 1e-4,
    "teacher_momentum": 0.996,
    "images_per_second": 90.0,
    "feature_std": 0.71,
    "effective_rank": 9.0,
}


def rows_of(groups: tuple[PlotGroup, ...], steps: int = 4) -> list[dict[str, float]]:
    names = [name for group in groups for name in (*group.columns, group.baseline) if name]
    return [
        {"step": step + 1, "loss": 2.0 - step / 9, **dict.fromkeys(names, 0.5), **CONSTANT} for step in range(steps)
    ]


def axes_by_title(figure: Figure) -> dict[str, Axes]:
    return {axis.get_title(): axis for axis in figure.axes}


@pytest.mark.parametrize("name", ["gtsa", "dino", "mocov3"])
def test_every_mark_is_in_a_legend_or_in_the_title(name: str) -> None:
    groups = make_method(
        load_config("quick", None, {"data": "x", "method": name, "model.arch": "vit_test"})
    ).plot_groups
    axes = axes_by_title(draw_curves(rows_of(groups), groups))
    assert len(axes) == 1 + len(groups) + len(COMMON_PLOT_GROUPS)  # no empty axes
    for axis in axes.values():
        assert axis.get_xlabel() == "step"
        labels = [text.get_text() for text in axis.get_legend().get_texts()] if axis.get_legend() else []
        assert len(labels) == (len(axis.lines) if len(axis.lines) > 1 else 0)
        assert not any("_" in label for label in labels)


def test_levels_and_limits() -> None:
    """Collapse metrics start at 0 with a line at collapse, accuracies span 0 to 1 with a line at chance."""
    groups = make_method(load_config("quick", None, {"data": "x", "model.arch": "vit_test"})).plot_groups
    axes = axes_by_title(draw_curves(rows_of(groups), groups))
    for title, limits, level, name in (
        ("std of patch tokens", (0, 1), 0, "collapse"),
        ("rotation accuracy", (0, 1), 0.25, "chance"),
        ("effective rank of patch tokens", None, 1, "collapse"),
    ):
        axis = axes[title]
        assert axis.get_ylim()[0] == 0
        assert limits is None or axis.get_ylim() == limits
        line = axis.lines[-1]
        assert set(line.get_ydata()) == {level}
        assert (line.get_label(), line.get_color(), line.get_linestyle()) == (name, BASELINE, "--")
    assert axes["learning rate"].get_ylim()[0] == 0
    baseline = axes["region and correspondence loss (minus cosine)"].lines[-1]
    assert (baseline.get_label(), baseline.get_color()) == ("region loss constant baseline", BASELINE)


def test_one_row_and_a_missing_column_can_be_drawn(tmp_path: Path) -> None:
    figure = draw_curves([{"step": 1, "loss": 1.0}], ())
    assert axes_by_title(figure)["loss"].lines[0].get_marker() == "o"  # one point makes no line
    save_figure(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["gtsa", "mocov3"])
def test_legends_hide_no_lines(name: str) -> None:
    """Inside of the axes a legend covers a baseline or a curve wherever both lie at the ends of the range."""
    config = load_config("quick", None, {"data": "x", "method": name, "model.arch": "vit_test"})
    figure = draw_curves(rows_of(make_method(config).plot_groups), make_method(config).plot_groups)
    FigureCanvasAgg(figure).draw()
    legends = {axis: axis.get_legend() for axis in figure.axes if axis.get_legend()}
    assert len(legends) >= 3
    for legend in legends.values():
        box = legend.get_window_extent()
        assert figure.bbox.fully_containsx(box.x0)
        assert figure.bbox.fully_containsx(box.x1)
        assert not any(box.overlaps(axis.get_window_extent()) for axis in figure.axes)
