import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_models import odd_ones
from PIL import Image

from gtsa_kit.evaluation.support.bar_charts import grouped_bars
from gtsa_kit.evaluation.support.estimates import mean_with_ci
from gtsa_kit.evaluation.support.report import Report


@pytest.fixture
def mixed(images: Path, tmp_path: Path) -> Path:
    """A list of sound, odd and broken images."""
    paths = [*sorted(images.iterdir())[:1], *odd_ones(tmp_path)]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    return tmp_path / "list.txt"


@pytest.mark.parametrize("name", ["pca", "attention", "matches", "sensitivity", "correspondence", "rotation"])
def test_every_evaluation_writes_a_picture_and_json_and_shows_them(
    gtsa_here: Callable, mixed: Path, tiny_run: Path, tiny_onnx: Path, tmp_path: Path, name: str
) -> None:
    models = [tiny_run, tiny_onnx, "--random", "vit_test"]
    common = [
        *(["--count", "8"] if name in ("pca", "attention") else []),
        "--images",
        mixed,
        "--out",
        tmp_path / "looks",
        "--size",
        "64",
    ]
    done = gtsa_here("eval", name, *models, *common, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown == json.loads((tmp_path / "looks" / f"{name}.json").read_text())
    assert [line["model"] for line in shown["summary"]][:3] == [
        tiny_run.name,
        "/".join(tiny_onnx.parts[-2:]),
        "random vit_test",
    ]
    assert shown["settings"]["images"] == 4
    assert len(shown["settings"]["skipped"]) == 2
    assert "2 files left out" in done.stderr
    # The run and its float32 export are one model.
    values = [line[key] for line in shown["summary"][:2] for key in line if isinstance(line[key], float)]
    np.testing.assert_allclose(*np.split(np.array(values), 2), rtol=0.05)
    assert np.asarray(Image.open(tmp_path / "looks" / f"{name}.png").convert("L")).std() > 10


def test_the_table_for_people(gtsa_here: Callable, mixed: Path, tmp_path: Path) -> None:
    done = gtsa_here(
        *("eval", "sensitivity", "--random", "vit_test", "--images", mixed, "--out", tmp_path, "--size", "32"),
        *("--views", "2", "--transform", "turn", "--transform", "blur", "--seeds", "2"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for word in ("random vit_test", "turn %", "blur %", "±", "sensitivity.json"):
        assert word in done.stderr


def test_pairs_of_files(gtsa_here: Callable, images: Path, tmp_path: Path) -> None:
    a, b = sorted(images.iterdir())[:2]
    (tmp_path / "pairs.txt").write_text(f"{a}\t{b}\n{b}\t{a}\n")
    done = gtsa_here(
        *("eval", "matches", "--random", "vit_test", "--pairs", tmp_path / "pairs.txt", "--out", tmp_path / "looks"),
        *("--size", "64"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "looks" / "matches.png").exists()


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("pca", "--images", ".", "--out", "x"), "no images in"),
        (("sensitivity", "--images", "/nowhere", "--out", "x"), "does not exist"),
        (
            ("sensitivity", "--random", "vit_test", "--images", "HERE", "--out", "x", "--transform", "shear"),
            "color, turn",
        ),
        (("correspondence", "--images", "HERE", "--out", "x"), "which model"),
        (("rotation", "--random", "vit_huge", "--images", "HERE", "--out", "x"), "unknown architecture"),
        (("matches", "--random", "vit_test", "--out", "x"), "either --images or --pairs"),
        (("attention", "/nowhere", "--images", "HERE", "--out", "x"), "does not exist"),
    ],
)
def test_wrong_use(
    gtsa_here: Callable,
    images: Path,
    args: tuple[str, ...],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gtsa_here("eval", *(str(images) if arg == "HERE" else arg for arg in args))
    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert not (tmp_path / "x").exists()


def test_bars_are_as_high_as_the_means(tmp_path: Path) -> None:
    """Blue, the first model's, against orange: three times as high."""
    rows = [
        {"model": "a", "seed": seed, "x": value, "x_low": None, "x_high": None}
        for seed, value in ((0, 20.0), (1, 40.0))
    ]
    rows += [
        {"model": "b", "seed": 0, "x": 10.0} | {"x_low": None, "x_high": None},
        {"model": "(chance)", "seed": 0, "x": 30.0},
    ]
    grouped_bars(Report("r", "t", {"x": "x"}, rows, {}), {"x": "x"}, tmp_path / "bars.png", "y")
    picture = np.asarray(Image.open(tmp_path / "bars.png").convert("RGB")).astype(int)
    blue, orange = (
        (np.abs(picture - np.array(color)).max(axis=-1) < 10).sum(axis=0).max()
        for color in ((31, 119, 180), (255, 127, 14))
    )
    assert blue / orange == pytest.approx(3, rel=0.05)


def test_means_and_their_intervals() -> None:
    row = mean_with_ci("x", [1.0, 3.0, float("nan")])
    assert row["x"] == 2
    assert row["x_high"] - row["x"] == pytest.approx(1.96 * np.sqrt(2) / np.sqrt(2), rel=1e-3)
    assert mean_with_ci("x", [4.0]) == {"x": 4.0, "x_low": None, "x_high": None}
    assert mean_with_ci("x", [float("nan")])["x"] is None
