"""Evaluations of models of other channels than 8-bit RGB: what works on bands, and what refuses in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.band_images import BANDS, write_band_encoder, write_bands, write_labeled_bands
from helpers.weights import save_random
from PIL import Image

pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labeled_bands(tmp_path_factory.mktemp("bands"), train=5, val=2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_band_encoder(tmp_path_factory.mktemp("encoder"))


def test_probes_of_pixels_ignore_what_holds_no_data(
    gtsa_here: Callable, bands: Path, encoder: Path, tmp_path: Path
) -> None:
    options = ("--images", bands, "--out", tmp_path, "--probe", "knn", "--seeds", "1", "--k", "3", "--examples", "1")
    done = gtsa_here("eval", "segment", encoder, *options, "--baseline", "none")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "segment.json").read_text())
    [row] = report["rows"]
    assert row["miou"] > 40  # a class everywhere has a third of the pixels, and an IoU of 11 on average
    assert row["void"] == pytest.approx(100 * (16 * 24 + 16 * 8) / (2 * 64 * 80))
    with Image.open(tmp_path / "segment-images.png") as figure:
        assert np.asarray(figure.convert("RGB")).std() > 10


def test_figures_show_three_channels(gtsa_here: Callable, bands: Path, encoder: Path, tmp_path: Path) -> None:
    images = bands / "train" / "images"
    commands = [("pca", "--count", "3", "--size", "64"), ("neighbors", "--count", "1", "--top", "2")]
    commands += [("attention", "--count", "1"), ("matches", "--count", "1", "--figure-rows", "1", "--seeds", "1")]
    for command in commands:
        done = gtsa_here("eval", *command, encoder, "--images", images, "--out", tmp_path, "--baseline", "none")
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / f"{command[0]}.png") as figure:
            assert np.asarray(figure.convert("RGB")).std() > 10
    assert json.loads((tmp_path / "pca.json").read_text())["settings"]["images"] == 3


def test_classes_are_told_apart_by_their_bands(gtsa_here: Callable, encoder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 500), ("light", 6000)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(5):
            samples = rng.integers(level, level + 900, (32, 32, BANDS)).astype(np.uint16)
            write_bands(tmp_path / "data" / name / f"{index}.tif", samples)
    options = ("--images", tmp_path / "data", "--out", tmp_path, "--seeds", "1", "--k", "1", "--baseline", "none")
    done = gtsa_here("eval", "knn", encoder, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "knn.json").read_text())["rows"][0]["top1"] == 100


@pytest.mark.parametrize(
    ("command", "column"), [("sensitivity", "color"), ("correspondence", "crop"), ("rotation", "accuracy")]
)
def test_views_of_bands_are_compared(
    command: str, column: str, gtsa_here: Callable, bands: Path, encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    options = ("--images", bands / "train" / "images", "--out", tmp_path, "--seeds", "1", "--size", "32")
    done = gtsa_here("eval", command, encoder, *options, "--baseline", "none")
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / f"{command}.json").read_text())["rows"][0]
    assert 0 < row[column] < 1000


def test_models_of_different_channels_are_not_compared(
    gtsa_here: Callable, bands: Path, encoder: Path, tmp_path: Path
) -> None:
    save_random(tmp_path, "vit_test")
    options = ("--images", bands / "val" / "images", "--out", tmp_path, "--baseline", "none")
    done = gtsa_here("eval", "pca", encoder, tmp_path, *options)
    assert done.returncode == 2
    assert "5 channels of uint16, and" in done.stderr.replace("\n", " ")
    assert "compare models of the same channels" in done.stderr.replace("\n", " ")
