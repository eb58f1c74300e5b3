"""Fine-tuning of detectors: what they learn, that runs resume exactly, targets of versions, settings, bad input."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import sets
from helpers.instance_data import DrawnImage, write_coco
from helpers.processes import finetune_and_kill, run_by_torchrun, start_forked
from helpers.task_models import SMALL_DETECTOR, random_task_model, task_spec
from helpers.weights import save_random
from PIL import Image

from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.data.instances import Instances
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.task_model import load_task_model
from gtsa_kit.tasks import result
from gtsa_kit.tasks.api import finetune
from gtsa_kit.tasks.auto import resolve_auto
from gtsa_kit.tasks.build import learning_rates
from gtsa_kit.tasks.evaluate import score_model
from gtsa_kit.tasks.object_data import ObjectData
from gtsa_kit.tasks.object_targets import object_targets
from gtsa_kit.tasks.objective import Targets
from gtsa_kit.tasks.start import exclude_unused, make_spec
from gtsa_kit.tasks.state import FinetuneCallback
from gtsa_kit.tasks.task_data import open_task_data, validation_images
from gtsa_kit.tasks.views import View, apply_to_image, make_view
from gtsa_kit.training.run_logger import RunLogger

SIDE = 64
SMALL = {
    "head.channels": 16,
    "detector.box_channels": 32,
    "detector.proposals": 40,
    "detector.train_proposals": 80,
    "detector.train_boxes": 48,
    "augment.size": SIDE,
    "train.workers": 0,
    "train.precision": "fp32",
    "train.batch_size": 3,
    "train.checkpoint_every": 1000,
    "train.log_every": 1,
}
"""Settings of a run of a few seconds."""
KINDS: dict[str, dict[str, Any]] = {
    "frozen": {"train.freeze": True, "train.views": 3},
    "all layers": {"train.freeze": False, "train.accumulate": 2, "train.batch_size": 2, "model.drop_path": 0.2},
    "eomt": {"head.name": "eomt", "train.freeze": False, "augment.short_sides": (0.5, 1.0)},
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures but in the test of them."""
    monkeypatch.setattr(RunLogger, "draw_curves", lambda _: None)
    monkeypatch.setattr(result, "save_predictions", lambda *_: None)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images of two colored rectangles each, in `labels.json` and, again, in `val.json`."""
    folder = tmp_path_factory.mktemp("squares")
    images = [
        DrawnImage(f"{i}.png", SIDE, SIDE, [(i % 2, (4 + 6 * i, 8, 28 + 6 * i, 32)), ((i + 1) % 2, (32, 36, 60, 62))])
        for i in range(3)
    ]
    shutil.copy(write_coco(folder, images), folder / "val.json")
    return folder


def sources(folder: Path) -> dict[str, Any]:
    """Return the settings of the images that `val.json` and `labels.json` name."""
    return {"data.images": str(folder / "images"), "data.val": str(folder / "val.json")}


def test_a_frozen_encoder_learns_a_few_images_and_its_saved_model_has_the_scores(squares: Path, tmp_path: Path) -> None:
    settings = SMALL | sources(squares) | {"train.freeze": True, "train.views": 2, "optim.lr": 3e-3}
    settings |= {"train.steps": 50, "train.eval_every": 50, "head.channels": 32}
    run = finetune("detect", squares / "labels.json", tmp_path / "run", random="vit_test", settings=settings)
    scores = json.loads((run / "scores.json").read_text())
    assert scores["metric"] == "mask_ap"
    assert scores["ap50"] > 80
    assert scores["mask_ap50"] > 80
    assert scores["ap_by_class"].keys() == {"bolt", "nut", "washer"}
    config = load_finetune_config("detect", None, run / "config.yaml")
    data = open_task_data(config)
    again = score_model(load_task_model(run), data, validation_images(data))  # features are kept in float16
    assert again["mask_ap"] == pytest.approx(scores["mask_ap"], abs=5)
    rows = read_json_lines(run / "metrics.jsonl")
    parts = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
    assert rows[0]["loss"] == pytest.approx(sum(rows[0][name] for name in parts), rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"] / 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_resumes_to_the_same_bytes(kind: str, squares: Path, tmp_path: Path) -> None:
    settings = SMALL | sources(squares) | KINDS[kind]
    settings |= {"train.steps": 7, "train.eval_every": 7, "train.checkpoint_every": 3}
    data = squares / "labels.json"
    run, reference = tmp_path / "run", tmp_path / "reference"
    model = tmp_path / "encoder"
    model.mkdir()
    save_random(model, "vit_test")
    killed = start_forked(tmp_path, finetune_and_kill, torch.get_num_threads(), data, run, model, settings, "detect")
    assert killed.wait(300) == -signal.SIGKILL, killed.stderr
    assert len(read_json_lines(run / "metrics.jsonl")) < 7
    finetune("detect", data, run, resume=True)
    finetune("detect", data, reference, model=model, settings=settings)
    assert (run / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()
    assert (run / "scores.json").read_text() == (reference / "scores.json").read_text()
    assert [row["step"] for row in read_json_lines(run / "metrics.jsonl")] == list(range(1, 8))
    losses = [[row["loss"] for row in read_json_lines(folder / "metrics.jsonl")] for folder in (run, reference)]
    assert losses[0] == losses[1]
    changed = json.loads(data.read_text())
    changed["annotations"][0]["bbox"][2] -= 4
    other = tmp_path / "other.json"
    other.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="not those that the run began with"):
        finetune("detect", other, run, resume=True)


def test_stopping_saves_a_checkpoint_and_boxes_alone_have_no_masks(squares: Path, tmp_path: Path) -> None:
    class Stop(FinetuneCallback):
        def should_stop(self) -> bool:
            return True

    settings = SMALL | sources(squares) | {"train.freeze": True, "train.views": 1, "train.steps": 2}
    settings |= {"head.name": "faster-rcnn", "train.features": str(tmp_path / "features")}
    run = finetune("detect", squares / "labels.json", tmp_path / "run", random="vit_test", settings=settings)
    assert load_task_model(run).spec.detector == replace(SMALL_DETECTOR, **_small_sizes(), masks=False)
    scores = json.loads((run / "scores.json").read_text())
    assert scores["metric"] == "ap"
    assert not any(name.startswith("mask") for name in scores)
    assert "loss_mask" not in read_json_lines(run / "metrics.jsonl")[0]
    stopped = tmp_path / "stopped"
    options = {"random": "vit_test", "settings": settings}
    finetune("detect", squares / "labels.json", stopped, callback=Stop(), **options)  # type: ignore[arg-type]
    assert not (stopped / "scores.json").exists()
    finetune("detect", squares / "labels.json", stopped, resume=True, **options)  # type: ignore[arg-type]
    assert (stopped / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def _small_sizes() -> dict[str, Any]:
    sizes = {"channels": 16, "box_channels": 32, "proposals": 40, "train_proposals": 80, "train_boxes": 48}
    return sizes | {"anchor_sizes": (4, 8, 16, 32, 64), "pre_nms": 300, "max_detections": 100}


def test_predictions_are_drawn(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    settings = SMALL | sources(squares) | {"train.freeze": True, "train.steps": 1, "train.views": 1}
    run = finetune("detect", squares / "labels.json", tmp_path / "run", random="vit_test", settings=settings)
    figure = np.asarray(Image.open(run / "predictions.png").convert("RGB"))
    assert figure.shape[0] > 400  # a row for each image
    assert (figure == [255, 40, 40]).all(axis=2).sum() > 100  # pixels of the images
    assert Image.open(run / "curves.png").height > 200


@pytest.mark.parametrize("number", range(5))
def test_targets_of_a_version_lie_where_its_pixels_are(number: int) -> None:
    """Colored rectangles are found in the pixels of the version, and give their boxes and masks."""
    width, height, size = 90, 60, (120, 176)
    boxes = np.array([[5, 6, 30, 40], [40, 10, 88, 30], [50, 35, 70, 58]], np.float32)
    pixels, masks = np.zeros((height, width, 3), np.uint8), np.zeros((4, height, width), bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes.astype(int).tolist()):
        pixels[y0:y1, x0:x1, i] = 255
        masks[i, y0:y1, x0:x1] = True
    crowd = np.array([False, False, False, True])
    objects = Instances(np.concatenate([boxes, [[0, 0, 90, 60]]]).astype(np.float32), np.arange(4), crowd, masks)
    view = make_view(number, 3, 7)
    targets = object_targets(view, objects, width, height, size)
    resized = apply_to_image(view, Image.fromarray(pixels)).resize(size[::-1], Image.Resampling.NEAREST)
    seen = np.asarray(resized) > 127
    assert targets["labels"].tolist() == [i + 1 for i in range(3) if seen[..., i].any()]
    for label, box, mask in zip(targets["labels"], targets["boxes"], targets["masks"], strict=True):
        ys, xs = np.nonzero(seen[..., label - 1])
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(box.numpy(), expected, atol=1)
        assert (mask.numpy().astype(bool) != seen[..., label - 1]).mean() < 0.005
    alone = object_targets(view, objects._replace(masks=None), width, height, size)
    assert torch.equal(alone["boxes"], targets["boxes"])
    assert "masks" not in alone


def test_two_processes_train_and_score_one_model(squares: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.val": str(squares / "val.json"), "train.steps": 4, "train.eval_every": 4}
    settings |= {"train.batch_size": 1, "train.accumulate": 2}
    command = ["finetune", "detect", str(squares / "labels.json"), "--images", str(squares / "images")]
    command += ["--random", "vit_test", "--no-freeze", "--out", str(tmp_path / "run"), *sets(settings)]
    run_by_torchrun(2, *command)
    rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["epoch"] for row in rows] == pytest.approx([4 / 3, 8 / 3, 4, 16 / 3])  # 2 processes x 2 x 1 of 3 images
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    config = load_finetune_config("detect", None, tmp_path / "run" / "config.yaml")
    data = open_task_data(config)
    again = score_model(load_task_model(tmp_path / "run"), data, validation_images(data))
    assert {name: again[name] for name in ("ap", "ap50", "mask_ap")} == pytest.approx(
        {name: scores[name] for name in ("ap", "ap50", "mask_ap")}, abs=1e-6
    )


def test_boxes_keep_their_precision_in_a_run_of_several_processes() -> None:
    from lightning_fabric.plugins import MixedPrecision

    convert = MixedPrecision("bf16-mixed", "cpu").convert_input
    boxes = torch.tensor([[1.0, 2.0, 301.3, 402.7]])
    assert convert([{"boxes": boxes}])[0]["boxes"].dtype == torch.bfloat16
    (kept,) = convert({"targets": Targets([{"boxes": boxes}])})["targets"]
    assert torch.equal(kept["boxes"], boxes)


@pytest.mark.parametrize("kind", ["mask-rcnn", "fpn flat", "linear"])
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("last", [0, 1])
def test_all_weights_that_are_trained_have_gradients(kind: str, final_norm: bool, last: int) -> None:
    """Otherwise several processes would wait for them."""
    spec = replace(task_spec(kind, final_norm=final_norm), layers=(last,) * (1 if kind == "linear" else 4))
    model = random_task_model(spec).train()
    exclude_unused(model)
    images = torch.randn(2, 3, 64, 64)
    if kind == "mask-rcnn":
        masks = torch.ones(1, 64, 64, dtype=torch.uint8)
        target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.ones(1).long(), "masks": masks}
        loss = torch.stack([*model.losses(images, [(64, 64)] * 2, [target] * 2).values()]).sum()
    else:
        loss = model(images).square().mean()
    loss.backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) > 15
    assert [name for name, weight in trained.items() if weight.grad is None] == []


def test_mixed_precision_is_that_of_the_losses_too(squares: Path, tmp_path: Path) -> None:
    """Weights of a step in bf16 are close to those in float32, and not equal."""
    settings = SMALL | sources(squares) | {"train.freeze": True, "train.steps": 1, "train.views": 1}
    settings |= {"optim.warmup_steps": 0, "train.features": str(tmp_path / "features")}
    losses = {}
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        chosen = settings | {"train.precision": precision}
        finetune("detect", squares / "labels.json", run, random="vit_test", settings=chosen)
        losses[precision] = read_json_lines(run / "metrics.jsonl")[0]["loss"]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.2)


def test_objects_outside_of_a_version_are_left_out() -> None:
    box = np.array([[80.0, 50.0, 90.0, 60.0]], np.float32)
    objects = Instances(box, np.zeros(1, np.int64), np.zeros(1, bool), np.zeros((1, 60, 90), bool))
    targets = object_targets(View(0.0, 0.0, 0.5, 0.5), objects, 90, 60, (64, 96))
    assert [tuple(value.shape) for value in targets.values()] == [(0, 4), (0,), (0, 64, 96)]


def test_the_papers_preset_is_table_2() -> None:
    config = load_finetune_config("detect", "coco-mask-rcnn", None, {"data.source": "x", "train.steps": 90_000})
    assert config.head.layers == (3, 5, 7, 11)
    assert not config.head.final_norm
    assert config.model.drop_path == 0.05
    assert config.optim.weight_decay == 0.05
    assert config.train.batch_size == 8
    rates = learning_rates(config, 8, 60_000)
    np.testing.assert_allclose(rates[[0, 500, 1000, 59_999]], [0, 2.5e-5, 5e-5, 5e-5])
    np.testing.assert_allclose(rates[[60_000, 82_499, 82_500, 89_999]], [5e-6, 5e-6, 5e-7, 5e-7])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_fits_the_machine(device: str, squares: Path) -> None:
    config = load_finetune_config(
        "detect", None, None, {"data.source": str(squares / "labels.json")} | sources(squares)
    )
    data = open_task_data(config)
    assert isinstance(data, ObjectData)
    config, chosen = resolve_auto(config, data, EncoderSpec.named("vit_test"), device, 1)
    detector = make_spec(config, data).detector
    assert detector is not None
    assert (detector.proposals, detector.train_boxes) == ((300, 128) if device == "cpu" else (1000, 512))
    assert config.augment.size == (64 if device == "cpu" else 112)  # images are not enlarged on a CPU
    assert detector.anchor_sizes[0] == 4
    assert f"{detector.proposals} proposals" in chosen
    assert "mask-rcnn" in chosen


def test_labels_without_masks_give_a_detector_of_boxes(squares: Path, tmp_path: Path) -> None:
    content = json.loads((squares / "labels.json").read_text())
    for item in content["annotations"]:
        del item["segmentation"]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    settings = {"data.source": str(boxes), "data.images": str(squares / "images"), "data.val_split": "0.34:random"}
    config = load_finetune_config("detect", None, None, settings)
    data = open_task_data(config)
    chosen, _ = resolve_auto(config, data, EncoderSpec.named("vit_test"), "cpu", 1)
    assert chosen.head.name == "faster-rcnn"
    config = load_finetune_config("detect", None, None, settings | {"head.name": "mask-rcnn"})
    with pytest.raises(ValueError, match=r"no masks.*--no-masks"):
        resolve_auto(config, data, EncoderSpec.named("vit_test"), "cpu", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head.name": "fpn"}, "the task detect has no head fpn; choose mask-rcnn or faster-rcnn or eomt"),
        ({"augment.size": 70}, "augment.size: must be a multiple of 16"),
        ({"detector.anchor_sizes": (8, 16)}, "5 positive sizes"),
        ({"data.val": "missing.json"}, "missing.json"),
        ({"preset": "ade20k-fpn"}, "for the task segment"),
    ],
)
def test_wrong_settings_start_no_run(settings: dict[str, Any], message: str, squares: Path, tmp_path: Path) -> None:
    preset = settings.pop("preset", None)
    given = SMALL | sources(squares) | settings
    with pytest.raises(ValueError, match=message):
        finetune("detect", squares / "labels.json", tmp_path / "r", random="vit_test", preset=preset, settings=given)
    assert not (tmp_path / "r").exists()
