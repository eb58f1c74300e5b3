"""`gtsa convert`: what it writes, prints and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from gtsa_kit.evaluation import conversion
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.weights import save_encoder

SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ViT with patches of 14 pixels and LayerScale, as DINOv2 has them."""
    kwargs: dict[str, Any] = {**SIZES, "patch_size": 14, "img_size": 224, "init_values": 0.5}
    architecture = Architecture("vit_test", "vit_tiny_patch16_224", 64, 2, 2, kwargs)
    torch.manual_seed(0)
    encoder, folder = Encoder(architecture), tmp_path_factory.mktemp("scaled")
    save_encoder(folder, encoder.vit.state_dict(), EncoderSpec(architecture, Preprocessing(mean=(0.5, 0.5, 0.5))), {})
    return folder


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, bright and dark."""
    folder, generator = tmp_path_factory.mktemp("labeled"), np.random.default_rng(0)
    for name, low in (("bright", 150), ("dark", 0)):
        (folder / name).mkdir()
        for number in range(8):
            pixels = generator.integers(low, low + 100, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_vit_14_becomes_a_plain_vit_16(scaled: Path, labeled: Path, tmp_path: Path, gtsa_here: Callable) -> None:
    out = tmp_path / "converted"
    done = gtsa_here(
        "convert", scaled, "--to-patch", "16", "--out", out, "--images", labeled, "--probe", labeled, "--json"
    )
    assert done.returncode == 0, done.stderr
    timm.create_model("vit_tiny_patch16_224", num_classes=0, **SIZES).load_state_dict(
        load_file(out / "encoder.safetensors"), strict=True
    )
    written = json.loads((out / "encoder.json").read_text())["conversion"]
    report = json.loads(done.stdout)
    assert report.items() <= written.items()
    assert report["patch"] == [14, 16]
    assert report["fold_difference"] < 1e-5
    assert [(grid["grid"], grid["sides"]) for grid in report["grids"]] == [(14, [196, 224]), (16, [224, 256])]
    assert all(0.5 < grid["min_cosine"] <= grid["mean_cosine"] <= 1 for grid in report["grids"])
    assert report["knn"] == [100, 100]
    for line in ("LayerScale folded: features differ by", "14 x 14, at 196 and 224", "k-NN: 100.0% before, 100.0%"):
        assert line in " ".join(done.stderr.split())
    opened = open_weights(out).encoder
    assert (opened.preprocessing.size, opened.preprocessing.mean) == (224, (0.5, 0.5, 0.5))


def test_without_a_patch_size_the_weights_stay(scaled: Path, tmp_path: Path, gtsa_here: Callable) -> None:
    done = gtsa_here("convert", scaled, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = (load_file(folder / "encoder.safetensors") for folder in (scaled, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert open_weights(tmp_path).encoder.architecture == open_weights(scaled).encoder.architecture


def test_labeled_images_are_not_needed(scaled: Path, tmp_path: Path, gtsa_here: Callable) -> None:
    done = gtsa_here("convert", scaled, "--to-patch", "14", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no k-NN probe: no labeled images were given with --probe" in done.stderr
    written = json.loads((tmp_path / "out" / "encoder.json").read_text())["conversion"]
    assert written["knn"] is None
    # The patches and the grid stay, so that only the exact part is left.
    assert all(grid["min_cosine"] > 0.999999 for grid in written["grids"])


def test_a_fold_that_changes_features_is_refused(
    scaled: Path, tmp_path: Path, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = conversion.fold_layer_scale
    wrong = "blocks.1.mlp.fc2.bias"  # a bias that is not scaled
    monkeypatch.setattr(
        conversion, "fold_layer_scale", lambda w: {**fold(w), wrong: w[wrong] + torch.linspace(0, 1, 64)}
    )
    done = gtsa_here("convert", scaled, "--to-patch", "16", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "folding LayerScale changed features" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("/nowhere", "--out", "{out}"), "/nowhere does not exist"),
        (("{scaled}", "--out", "{scaled}"), "exists"),
        (("{scaled}", "--to-patch", "15", "--out", "{out}"), "do not divide 224"),
        (("{scaled}", "--to-patch", "16", "--out", "{out}", "--probe", "/nowhere"), "/nowhere does not exist"),
    ],
)
def test_what_is_refused(
    args: tuple[str, ...], message: str, scaled: Path, tmp_path: Path, gtsa_here: Callable
) -> None:
    done = gtsa_here("convert", *(arg.format(scaled=scaled, out=tmp_path / "out") for arg in args))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
