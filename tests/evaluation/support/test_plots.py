"""Bar charts of reports and grids of images, by their matplotlib objects."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from gtsa_kit.evaluation.support.plots import bar_chart, image_grid, shorten, show_image
from gtsa_kit.evaluation.support.report import CHANCE, Report
from gtsa_kit.figures import BASELINE, PALETTE, RANDOM, save_figure


def make_report(*rows: tuple[str, int, float | None], **columns: float) -> Report:
    entries = [{"model": model, "seed": seed, "x": value, **columns} for model, seed, value in rows]
    return Report("r", "a title", {"x": "x %"}, entries, {}, chance={"x": 12.5})


def bars(axis: Axes) -> list[float]:
    return [bar.get_height() for container in axis.containers for bar in container.patches]


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_bars_are_as_high_as_the_means_and_begin_at_zero() -> None:
    report = make_report(("a", 0, 20.0), ("a", 1, 40.0), ("random vit", 0, 10.0))
    figure = bar_chart(report, {"x": "x"}, "accuracy, %")
    [axis] = figure.axes
    assert bars(axis) == [30, 10]
    assert legend_labels(figure) == ["a", "random vit", "seed", "chance"]
    assert axis.get_ylim()[0] == 0
    assert axis.get_yscale() == "linear"
    assert (axis.get_ylabel(), axis.get_title()) == ("accuracy, %", "a title")
    colors = [to_hex(container.patches[0].get_facecolor()) for container in axis.containers]
    assert colors == [PALETTE[0], RANDOM]
    assert [text.get_text() for text in axis.texts] == ["30", "10"]


def test_every_mark_is_in_the_legend_once() -> None:
    report = make_report(("a", 0, 20.0), ("a", 1, 40.0), ("b", 0, 5.0), ("b", 1, 6.0), x_low=1.0, x_high=50.0)
    figure = bar_chart(report, {"x": "x"}, "y", reference=(100.0, "two images"))
    assert sorted(legend_labels(figure)) == sorted(["a", "b", "95% interval", "seed", "chance", "two images"])


def test_chance_of_the_report_and_of_its_rows_is_drawn() -> None:
    """The row of a report is averaged over its seeds."""
    rows = [{"model": CHANCE, "seed": seed, "x": value} for seed, value in enumerate((10.0, 14.0))]
    in_rows = Report("r", "t", {"x": "x"}, [*make_report(("a", 0, 3.0)).rows, *rows], {})
    for report, level in ((make_report(("a", 0, 3.0)), 12.5), (in_rows, 12.0)):
        figure = bar_chart(report, {"x": "x"}, "y")
        [line] = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
        assert (set(line.get_ydata()), line.get_color()) == ({level}, BASELINE)
        assert bars(figure.axes[0]) == [3]
        assert legend_labels(figure) == ["a", "chance"]


def test_many_models_differ_in_color_or_hatch() -> None:
    figure = bar_chart(make_report(*((f"m{i}", 0, float(i)) for i in range(20))), {"x": "x"}, "y")
    styles = {(c.patches[0].get_facecolor(), c.patches[0].get_hatch()) for c in figure.axes[0].containers}
    assert len(styles) == 20


def test_values_that_are_missing_or_zero_leave_a_chart(tmp_path: Path) -> None:
    rows = [{"model": "_a $b_1", "seed": 0, "x": 0.0, "y": None}, {"model": "nothing", "seed": 0, "x": None}]
    report = Report("r", "t", {"x": "x", "y": "y"}, rows, {})
    figure = bar_chart(report, report.measures, "%")
    save_figure(figure, tmp_path / "new" / "chart.svg")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chart.svg"]
    assert legend_labels(figure)[0] == "_a $b_1"  # matplotlib leaves out names that begin with an underscore


def test_images_have_their_name_below() -> None:
    figure = image_grid(2, 1)
    show_image(figure.axes[0], Image.new("RGB", (4, 3)), "query", "img_$1.jpg")
    axis = figure.axes[0]
    assert (axis.get_title(), axis.get_xlabel()) == ("query", "img_$1.jpg")
    assert not len(axis.get_xticks())
    assert axis.xaxis.label.get_fontsize() >= 7
    np.testing.assert_array_equal(axis.images[0].get_array(), np.zeros((3, 4, 3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("short.jpg", "short.jpg"), ("a/very/long.jpg", "…long.jpg"), ("a\nb", "a\N{REPLACEMENT CHARACTER}b")],
)
def test_shortened_names_keep_their_end(text: str, expected: str) -> None:
    assert shorten(text, 9) == expected
