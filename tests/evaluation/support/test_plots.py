"""Bar charts of reports."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtsa_kit.evaluation.support.plots import bar_chart
from gtsa_kit.evaluation.support.report import Report


def test_bars_are_as_high_as_the_means(tmp_path: Path) -> None:
    """The blue bar of the first model is three times as high as the orange bar of the second."""
    rows = [
        {"model": "a", "seed": seed, "x": value, "x_low": None, "x_high": None}
        for seed, value in ((0, 20.0), (1, 40.0))
    ]
    rows += [
        {"model": "b", "seed": 0, "x": 10.0} | {"x_low": None, "x_high": None},
        {"model": "(chance)", "seed": 0, "x": 30.0},
    ]
    bar_chart(Report("r", "t", {"x": "x"}, rows, {}), {"x": "x"}, tmp_path / "bars.png", "y")
    picture = np.asarray(Image.open(tmp_path / "bars.png").convert("RGB")).astype(int)
    picture = picture[: int(0.85 * len(picture))]  # without the legend
    blue, orange = (
        (np.abs(picture - np.array(color)).max(axis=-1) < 10).sum(axis=0).max()
        for color in ((31, 119, 180), (255, 127, 14))
    )
    assert blue / orange == pytest.approx(3, rel=0.05)


def test_bars_of_zero_on_a_logarithmic_axis(tmp_path: Path) -> None:
    rows = [{"model": "a", "seed": 0, "x": 0.0, "y": 50.0}, {"model": "b", "seed": 0, "x": None, "y": 5.0}]
    report = Report("r", "t", {"x": "x", "y": "y"}, rows, {})
    bar_chart(report, report.measures, tmp_path / "bars.png", "%", log=True)
    assert np.asarray(Image.open(tmp_path / "bars.png").convert("L")).std() > 10


def test_a_chart_is_drawn_with_and_without_intervals_and_values(tmp_path: Path) -> None:
    rows = [
        {"model": f"m{i % 3}", "seed": i // 3, "x": 10.0 * i, "x_low": 9.0 * i, "x_high": 11.0 * i} for i in range(6)
    ]
    rows += [{"model": "no interval", "seed": 0, "x": 5.0}, {"model": "nothing", "seed": 0, "x": None}]
    report = Report("thing", "a thing", {"x": "x %"}, rows, {})
    bar_chart(report, report.measures, tmp_path / "new" / "chart.png", "%")
    assert np.asarray(Image.open(tmp_path / "new" / "chart.png").convert("L")).std() > 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chart.png"]
