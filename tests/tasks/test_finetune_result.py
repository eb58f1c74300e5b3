"""The command `gtsa finetune`: what it prints, the files of a run, its messages, and the settings that it chooses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import sets
from helpers.evaluation_data import write_blocks, write_color_classes
from PIL import Image

from gtsa_kit.config.finetune import resolved
from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.task_spec import Label
from gtsa_kit.tasks import pictures
from gtsa_kit.tasks.api import resolve_finetune
from gtsa_kit.tasks.auto import resolve_auto
from gtsa_kit.tasks.build import learning_rates
from gtsa_kit.tasks.state import COMMON_PLOTS, PLOTS
from gtsa_kit.tasks.task_data import open_task_data
from gtsa_kit.training.curves import draw_curves


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("blocks"))


def test_the_command_tells_data_choices_scores_and_files(gtsa_here: Callable, blocks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = sets({"train.eval_every": 2, "train.workers": 0, "head.channels": 16})
    labels = tmp_path / "labels.yaml"
    labels.write_text("{0: {name: red, color: '#d22828'}, 1: green, 2: blue}")
    options = ["--random", "vit_test", "--steps", 2, "--freeze", "--labels", labels, *small]
    done = gtsa_here("finetune", "segment", blocks, "--out", run, *options)
    assert done.returncode == 0, done.stderr
    for words in (
        *("10 training and 4 validation images", "red", "auto: head fpn, size 64, batch 10", "--no-freeze"),
        *("step 2: mIoU", "scores of step 2, head fpn, pyramid flat", f"gtsa export {run} --format onnx"),
    ):
        assert words in done.stderr, words
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.yaml", "metrics.jsonl", "train.log", "tensorboard", "curves.png", "checkpoints", "predictions.png"),
        *("scores.json", "model.safetensors", "model.json", "errors.jsonl"),
    }
    scores = json.loads((run / "scores.json").read_text())
    assert list(scores["iou"]) == ["red", "green", "blue"]
    task = json.loads((run / "model.json").read_text())["task"]
    assert task["labels"][0] == {"id": 0, "name": "red", "color": [210, 40, 40], "aliases": []}
    assert task["short_side"] == 64
    config = resolve_finetune("segment", run, True, None, None, {})
    assert resolved(config.head.layers) == (0, 0, 1, 1)
    scored = gtsa_here("eval", "segment", run, "--images", blocks, "--out", tmp_path / "eval", "--json")
    assert scored.returncode == 0, scored.stderr
    [row] = json.loads(scored.stdout)["models"]
    assert row["iou"] == pytest.approx(scores["iou"], abs=0.2)  # features of the run are float16
    assert json.loads((tmp_path / "eval/segment.json").read_text())["models"] == [row]
    wrong = gtsa_here("eval", "segment", run, "--images", blocks, "--out", tmp_path / "eval", "--ignore", "1")
    assert wrong.returncode == 2
    assert "--ignore is for probes" in wrong.stderr
    again = gtsa_here("finetune", "segment", "--out", run, "--resume")
    assert again.returncode == 0, again.stderr
    assert "resuming from step 2" in again.stderr


def test_the_command_classifies(gtsa_here: Callable, tmp_path: Path) -> None:
    data = write_color_classes(tmp_path / "data")
    options = ["--random", "vit_test", "--steps", 2, "--no-freeze", "--size", 32, "--workers", 0]
    done = gtsa_here("finetune", "classify", data, "--out", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    assert "step 2: top-1" in done.stderr
    assert (tmp_path / "run/predictions.png").exists()
    scored = gtsa_here("eval", "classify", tmp_path / "run", "--images", data, "--out", tmp_path / "eval")
    assert scored.returncode == 0, scored.stderr
    assert ["top-5", "100.00"] in [line.split() for line in scored.stdout.splitlines()]
    assert json.loads((tmp_path / "eval/classify.json").read_text())["models"][0]["images"] == 36


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give --model WEIGHTS, or --random vit_small"),
        (["--random", "vit_test", "--model", "."], "a run starts from weights or from a random encoder"),
        (["--random", "vit_test", "--size", "70"], "augment.size: must be a multiple of 16, got 70"),
        (
            ["--random", "vit_test", "--head", "fnp"],
            "setting head.name: Input should be 'auto', 'fpn', 'linear', 'eomt', 'mask-rcnn' or 'faster-rcnn'",
        ),
        (["--random", "vit_test", "--layers", "0,1"], "the head fpn takes the maps of 4 blocks"),
        (["--random", "vit_test", "--head", "linear", "--layers", "7"], "layers must lie between 0 and 1"),
        (["--random", "vit_test", "--preset", "inat19"], "the preset inat19 is for the task classify"),
        (["--random", "vit_test", "--mean", "0,0,0"], "--mean is a fact about weights to start from"),
        (["--random", "vit_test", "--ignore", "0", "--ignore", "1"], "two are needed"),
        (["--random", "vit_test", "--set", "train.stepz=3"], "did you mean train.steps"),
    ],
)
def test_wrong_use_is_said_before_the_first_step(
    options: list[str], words: str, gtsa_here: Callable, blocks: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = gtsa_here("finetune", "segment", blocks, "--out", run, *options)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not run.exists()


def test_masks_that_do_not_fit_their_images_stop_the_command(gtsa_here: Callable, tmp_path: Path) -> None:
    data = write_blocks(tmp_path / "data")
    for index in range(2):
        Image.new("L", (8, 8)).save(data / f"train/masks/ä{index}.png")
    done = gtsa_here("finetune", "segment", data, "--out", tmp_path / "run", "--random", "vit_test")
    assert done.returncode == 2
    assert "2 of 14 images and masks can't be used, more than 5%" in done.stderr
    assert "its mask is 8 x 8" in done.stderr


def test_auto_chooses_by_data_and_device_and_leaves_what_is_given(blocks: Path) -> None:
    overrides = {"data.source": str(blocks), "model.random": "vit_test", "optim.lr": 0.5}
    config = load_finetune_config("segment", overrides=overrides)
    data = open_task_data(config)
    spec = EncoderSpec.named("vit_test")
    cpu, sentence = resolve_auto(config, data, spec, "cpu", 1)
    gpu, _ = resolve_auto(config, data, spec, "cuda", 2)
    assert (cpu.train.freeze, cpu.train.batch_size, cpu.optim.lr, cpu.augment.size) == (False, 4, 0.5, 64)
    assert gpu.train.batch_size == 10
    assert resolved(gpu.train.steps) == 1000
    assert "size 64" in sentence
    assert "rate" not in sentence
    trained = config.model_copy(update={"model": config.model.model_copy(update={"random": None, "weights": "x"})})
    assert resolve_auto(trained, data, spec, "cpu", 1)[0].train.freeze is True
    assert resolve_auto(cpu, data, spec, "cpu", 1)[0] == cpu


def test_scores_of_some_steps_are_a_line_in_the_curves() -> None:
    rows: list[dict[str, float]] = [{"step": step, "loss": 1.0} for step in range(1, 9)]
    for step in (4, 8):
        rows[step - 1] |= {"miou": 10.0 * step, "aacc": 90.0, "macc": 50.0}
    figure = draw_curves(rows, PLOTS["segment"], COMMON_PLOTS)
    [axis] = [axis for axis in figure.axes if axis.get_title() == "validation, %"]
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), [[4, 40], [8, 80]])


def test_presets_are_the_protocols_of_the_paper() -> None:
    ade = load_finetune_config("segment", "ade20k-fpn")
    lr = learning_rates(ade, 16, 20_210)
    assert len(lr) == 40_000
    assert lr[1500] == lr.max() == 6e-5
    np.testing.assert_allclose(lr[[0, 750, 20_750]], [0, 3e-5, 3e-5])
    inat = load_finetune_config("classify", "inat19", overrides={"train.steps": 3000, "train.batch_size": 64})
    lr = learning_rates(inat, 1024, 10_240)
    assert lr[50] == lr.max() == pytest.approx(5e-4 * 1024 / 256)
    assert lr[-1] == pytest.approx(1e-6)


def test_pictures_name_more_classes_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_LEGEND", 2)
    labels = [Label(i, f"class {i}", (i, i, i)) for i in range(4)]
    mask = np.zeros((8, 8), np.uint8)
    figure = pictures.draw_masks([pictures.Example("a", Image.new("RGB", (8, 8)), mask, {"prediction": mask})], labels)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["class 0", "class 1", "and 2 more classes"]
