"""The commands `gtsa eval`: reports, figures, tables and errors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.commands import sets
from helpers.evaluation_data import write_blocks, write_color_classes
from helpers.fake_models import write_edge_cases
from PIL import Image

from gtsa_kit.config import dump_config, load_config
from gtsa_kit.files import write_json_lines

IMAGE_EVALUATIONS = ("pca", "attention", "matches", "sensitivity", "correspondence", "rotation")
MATCHING = ("matches", "correspondence")
"""Evaluations by nearest neighbors: on constant images their matches are ties that rounding decides."""


@pytest.fixture
def mixed(images: Path, tmp_path: Path) -> Path:
    """Write a list of ordinary, unusual and unreadable images."""
    paths = [*sorted(images.iterdir())[:1], *write_edge_cases(tmp_path)]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    return tmp_path / "list.txt"


@pytest.fixture(scope="session")
def color_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_color_classes(tmp_path_factory.mktemp("classes"))


def float_values(summary: list[dict[str, object]]) -> list[np.ndarray]:
    """Return the float values of the first two models."""
    return [np.array([value for value in line.values() if isinstance(value, float)]) for line in summary[:2]]


@pytest.mark.parametrize("name", IMAGE_EVALUATIONS)
def test_each_evaluation_writes_a_figure_and_json_and_prints_them(
    gtsa_here: Callable, mixed: Path, tiny_run: Path, tiny_onnx: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    count = ["--count", "8"] if name in ("pca", "attention") else []
    models = [tiny_run, tiny_onnx, "--random", "vit_test"]
    done = gtsa_here("eval", name, *models, *count, "--images", mixed, "--out", out, "--size", "64", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / f"{name}.json").read_text())
    assert [line["model"] for line in report["summary"]][:3] == [
        tiny_run.name,
        "/".join(tiny_onnx.parts[-2:]),
        "random vit_test",
    ]
    assert report["settings"]["images"] == 4
    assert len(report["settings"]["skipped"]) == 2
    assert "2 files skipped" in done.stderr
    if name not in MATCHING:
        run, export = float_values(report["summary"])
        np.testing.assert_allclose(run, export, rtol=0.05)
    assert np.asarray(Image.open(out / f"{name}.png").convert("L")).std() > 10


@pytest.mark.parametrize("name", MATCHING)
def test_a_run_and_its_float32_export_match_the_same_patches(
    gtsa_here: Callable, images: Path, tiny_run: Path, tiny_onnx: Path, tmp_path: Path, name: str
) -> None:
    """On these images the smallest gap between two candidates is 80 times the difference of the models' cosines."""
    done = gtsa_here("eval", name, tiny_run, tiny_onnx, "--images", images, "--out", tmp_path, "--size", 64, "--json")
    assert done.returncode == 0, done.stderr
    run, export = float_values(json.loads(done.stdout)["summary"])
    assert len(run) >= 3
    np.testing.assert_allclose(run, export, rtol=1e-4)


def test_the_table(gtsa_here: Callable, mixed: Path, tmp_path: Path) -> None:
    done = gtsa_here(
        *("eval", "sensitivity", "--random", "vit_test", "--images", mixed, "--out", tmp_path, "--size", "32"),
        *("--views", "2", "--transform", "rotation", "--transform", "blur", "--seeds", "2"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for word in ("random vit_test", "rotation %", "blur %", "±", "sensitivity.json"):
        assert word in done.stderr


def test_matches_of_pairs_of_files(gtsa_here: Callable, images: Path, tmp_path: Path) -> None:
    a, b = sorted(images.iterdir())[:2]
    (tmp_path / "pairs.txt").write_text(f"{a}\t{b}\n{b}\t{a}\n")
    done = gtsa_here(
        *("eval", "matches", "--random", "vit_test", "--pairs", tmp_path / "pairs.txt", "--out", tmp_path / "out"),
        *("--size", "64", "--figure-rows", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "matches.png").exists()


def test_knn(color_classes: Path, tiny_run: Path, gtsa_here: Callable, tmp_path: Path) -> None:
    arguments = ("--images", color_classes, "--out", tmp_path / "out", "--size", 32, "--device", "cpu", "--seeds", 2)
    done = gtsa_here("eval", "knn", tiny_run, "--random", "vit_test", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out" / "knn.json").read_text())
    assert [line["model"] for line in report["summary"]][1] == "random vit_test"
    assert report["settings"]["seeds"] == 2
    assert (tmp_path / "out" / "knn.png").stat().st_size > 1000


def test_random_weights_stand_beside_a_trained_model(
    gtsa_here: Callable, images: Path, tiny_run: Path, tmp_path: Path
) -> None:
    command = (
        "eval",
        "sensitivity",
        tiny_run,
        "--images",
        images,
        "--out",
        tmp_path,
        "--size",
        32,
        "--views",
        2,
        "--json",
    )
    names = [line["model"] for line in json.loads(gtsa_here(*command).stdout)["summary"]]
    assert names == [tiny_run.name, "random vit_test"]
    alone = json.loads(gtsa_here(*command, "--baseline", "none").stdout)
    assert [line["model"] for line in alone["summary"]] == [tiny_run.name]


def test_neighbors(gtsa_here: Callable, mixed: Path, tiny_run: Path, tmp_path: Path) -> None:
    done = gtsa_here(
        *("eval", "neighbors", tiny_run, "--images", mixed, "--out", tmp_path / "out", "--figure-format", "pdf"),
        *("--json", "--count", 2, "--top", 3),
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["figure"] == str(tmp_path / "out" / "neighbors.pdf")
    assert [row["model"] for row in printed["rows"]] == [tiny_run.name] * 2 + ["random vit_test"] * 2
    for row in printed["rows"]:
        cosines = [neighbor["cosine"] for neighbor in row["neighbors"]]
        assert len(cosines) == 3
        assert cosines == sorted(cosines, reverse=True)
        assert row["image"] not in [neighbor["image"] for neighbor in row["neighbors"]]
    assert "2 files skipped" in done.stderr
    assert (tmp_path / "out" / "neighbors.pdf").read_bytes().startswith(b"%PDF")


def test_curves_are_drawn_anew(gtsa_here: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(load_config("quick", None, {"data": "x", "model.arch": "vit_test"})))
    columns = ("loss", "region", "region_loss_constant_baseline", "rotation_accuracy")
    write_json_lines(run / "metrics.jsonl", [{"step": step} | dict.fromkeys(columns, 0.5) for step in (1, 2)])
    done = gtsa_here("eval", "curves", run, "--out", tmp_path / "new", "--figure-format", "svg")
    assert done.returncode == 0, done.stderr
    svg = (tmp_path / "new" / "curves.svg").read_text()
    assert "<!-- region loss constant baseline -->" in svg
    empty = gtsa_here("eval", "curves", tmp_path)
    assert empty.returncode == 2
    assert "holds no metrics.jsonl" in empty.stderr


def test_linear(color_classes: Path, gtsa_here: Callable, tmp_path: Path) -> None:
    arguments = ("--images", color_classes, "--out", tmp_path, "--size", 32, "--device", "cpu", "--seeds", 1)
    done = gtsa_here("eval", "linear", "--random", "vit_test", *arguments)
    assert done.returncode == 0, done.stderr
    assert "top-1 %" in done.stderr
    assert "wrote" in done.stderr
    assert not done.stdout
    assert gtsa_here("eval", "linear", *arguments).returncode == 2


def test_segment(gtsa_here: Callable, tmp_path: Path) -> None:
    blocks = write_blocks(tmp_path / "blocks")
    arguments = ("--images", blocks, "--out", tmp_path, "--tiles", 32, "--device", "cpu", "--seeds", 1, "--ignore", 0)
    figures = ("--figure-format", "svg")
    done = gtsa_here("eval", "segment", "--random", "vit_test", *arguments, *figures, "--epochs", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "segment.json").read_text())
    assert report["settings"]["classes"] == ["1", "2"]
    assert [line["model"] for line in report["summary"]] == [
        "random vit_test, linear",
        "random vit_test, knn",
        "(chance)",
    ]
    assert {path.name for path in tmp_path.glob("segment*.svg")} == {
        "segment.svg",
        "segment-classes.svg",
        "segment-images.svg",
    }
    wrong = gtsa_here("eval", "segment", "--random", "vit_test", *arguments, "--probe", "forest")
    assert wrong.returncode == 2
    assert "probes are linear and knn" in wrong.stderr


@pytest.mark.usefixtures("no_run_figures")
def test_ablation_gives_one_table(gtsa_here: Callable, images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("dark", "light"):
        for index in range(8):
            pixels = rng.integers(0, 100, (40, 40, 3), dtype=np.uint8) + (0 if kind == "dark" else 150)
            (tmp_path / "classes" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "classes" / kind / f"{index}.png")
    (tmp_path / "classes" / "dark" / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    command = ("eval", "ablation", images, "--labeled", tmp_path / "classes", "--preset", "quick", "--out", out)
    command += ("--seeds", 2, "--size", 32, "--json", *sets({**tiny, "train.steps": 2}))
    done = gtsa_here(*command)
    assert done.returncode == 0, done.stderr
    assert "1 files skipped" in done.stderr
    assert "dark/empty.png: empty file" in done.stderr
    report = json.loads(done.stdout)
    assert [line["model"] for line in report["summary"]] == ["l", "l + l_pc", "l + l_pc + l_rp", "random", "(chance)"]
    assert all(0 <= row[key] <= 100 for row in report["rows"] for key in ("knn", "linear"))
    assert report == json.loads((out / "ablation.json").read_text())
    weights = {name: yaml.safe_load((out / name / "config.yaml").read_text())["loss"] for name in ("region", "whole")}
    assert (weights["region"]["rotation_weight"], weights["whole"]["rotation_weight"]) == (0.0, 0.5)
    assert Image.open(out / "ablation.png").size[0] > 300
    again = gtsa_here(*command)
    assert json.loads(again.stdout) == report


def test_ablation_without_data_to_probe_on_trains_nothing(gtsa_here: Callable, images: Path, tmp_path: Path) -> None:
    done = gtsa_here("eval", "ablation", images, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--labeled" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_reported(
    color_classes: Path, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    done = gtsa_here("eval", "linear", "--random", "vit_test", "--images", color_classes, "--out", tmp_path)
    assert done.returncode == 2
    assert "hint: pip install 'gtsa-kit[eval]'" in done.stderr


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("pca", "--random", "vit_test", "--images", ".", "--out", "x"), "no images in"),
        (("sensitivity", "--images", "/nowhere", "--out", "x"), "does not exist"),
        (
            ("sensitivity", "--random", "vit_test", "--images", "HERE", "--out", "x", "--transform", "shear"),
            "color, rotation",
        ),
        (("correspondence", "--images", "HERE", "--out", "x"), "no model given"),
        (("rotation", "--random", "vit_huge", "--images", "HERE", "--out", "x"), "unknown architecture"),
        (("matches", "--random", "vit_test", "--out", "x"), "either --images or --pairs"),
        (("pca", "--random", "vit_test", "--images", "HERE", "--out", "x", "--figure-format", "gif"), "png, svg, pdf"),
        (("pca", "--random", "vit_test", "--images", "HERE", "--out", "x", "--baseline", "zero"), "random or none"),
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
