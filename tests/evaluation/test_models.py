"""What all evaluations share: names and weights of models, reports, intervals, charts."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gtsa_kit.evaluation.models import distinct_names, open_models, random_runner
from gtsa_kit.evaluation.support.bar_charts import bar_chart
from gtsa_kit.evaluation.support.intervals import bootstrap, wilson
from gtsa_kit.evaluation.support.report import Report


def test_names_are_short_and_distinct(tmp_path: Path) -> None:
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"]
    for run in runs:
        run.mkdir(parents=True)
    files = [tmp_path / "a" / "run" / "encoder.onnx", tmp_path / "b" / "run" / "encoder.onnx"]
    assert distinct_names(runs) == ["a/run", "b/run", "other"]
    assert distinct_names(files) == ["a/run/encoder.onnx", "b/run/encoder.onnx"]
    assert distinct_names(files[:1]) == ["run/encoder.onnx"]
    names = distinct_names([*runs, *files])
    assert len(set(names)) == 5
    assert all(str(path).endswith(name) for path, name in zip([*runs, *files], names, strict=True))


def test_random_weights_follow_the_seed_and_touch_no_other(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    images = np.zeros((1, 3, 32, 32), np.float32)
    one, same, other = (random_runner("vit_test", seed)(images).embedding for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), wanted)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_no_model_or_an_unknown_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which model"):
        open_models([])
    with pytest.raises(ValueError, match="unknown architecture 'vit_huge'; choose"):
        open_models([], ["vit_huge"])
    with pytest.raises(ValueError, match="does not exist"):
        open_models([tmp_path / "gone"])


def report(rows: list[dict[str, object]]) -> Report:
    return Report("thing", "a thing", {"x": "x %", "y": "y"}, rows, {"setting": 1})


def test_summary_is_mean_and_sample_deviation_by_model(tmp_path: Path) -> None:
    rows = [{"model": "b", "seed": s, "x": v, "y": None} for s, v in enumerate((1.0, 2.0, 6.0))]
    found = report([*rows, {"model": "a", "seed": 0, "x": 4.0, "y": 2.0}])
    b, a = found.summary()
    assert (b["model"], b["seeds"], b["x"], b["x_std"]) == ("b", 3, 3.0, statistics.stdev((1, 2, 6)))
    assert b["y"] is b["y_std"] is None
    assert (a["model"], a["x"], a["x_std"], a["y"]) == ("a", 4.0, None, 2.0)
    written = json.loads(found.write(tmp_path / "new").read_text())
    assert written == found.to_dict() == json.loads(json.dumps(found.to_dict()))


def test_wilson_solves_the_equation_it_comes_from() -> None:
    """Its ends are the shares p from which the one seen is 1.96 standard deviations away."""
    for successes, count in ((3, 10), (50, 60), (0, 7), (7, 7)):
        for end in wilson(successes, count):
            distance = (successes / count - end) ** 2 * count
            assert distance == pytest.approx(1.959963984540054**2 * end * (1 - end), abs=1e-9)


def test_wilson_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [low <= 0.8 <= high for low, high in (wilson(int(s), 200) for s in rng.binomial(200, 0.8, 2000))]
    assert 0.93 < np.mean(held) < 0.97


def test_bootstrap_of_a_mean_is_near_its_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 1, (400, 1))
    items = np.concatenate([values, np.ones_like(values)], axis=1)
    low, high = bootstrap(lambda total: float(total[0] / total[1]), items)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap(lambda total: 0.0, items[:1]) == (None, None)


def test_a_chart_is_drawn_with_and_without_intervals_and_values(tmp_path: Path) -> None:
    rows = [
        {"model": f"m{i % 3}", "seed": i // 3, "x": 10.0 * i, "x_low": 9.0 * i, "x_high": 11.0 * i} for i in range(6)
    ]
    rows += [{"model": "no interval", "seed": 0, "x": 5.0}, {"model": "nothing", "seed": 0, "x": None}]
    bar_chart(report(rows), "x", tmp_path / "new" / "chart.png")
    assert np.asarray(Image.open(tmp_path / "new" / "chart.png").convert("L")).std() > 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chart.png"]
