"""Fine-tuning runs: what they learn, that they resume exactly, and that frozen features are those of the encoder."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.evaluation_data import write_blocks, write_color_classes
from helpers.labeled_images import write_halves
from helpers.processes import finetune_and_kill, start_forked
from helpers.weights import save_random

from gtsa_kit.config.finetune import FinetuneConfig
from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.task_model import TaskModel, load_task_model
from gtsa_kit.tasks import result
from gtsa_kit.tasks.api import finetune, resolve_finetune
from gtsa_kit.tasks.build import learning_rates
from gtsa_kit.tasks.evaluate import score_model
from gtsa_kit.tasks.frozen import FrozenBatches, open_features
from gtsa_kit.tasks.inputs import image_input, input_policy
from gtsa_kit.tasks.start import TaskStart, build_model, make_spec, open_encoder
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneMetrics
from gtsa_kit.tasks.task_data import (
    TaskData,
    open_labeled,
    open_masks,
    open_task_data,
    training_images,
    validation_images,
)
from gtsa_kit.training.run_logger import RunLogger

SMALL = {
    "head.channels": 16,
    "train.workers": 0,
    "train.precision": "fp32",
    "train.batch_size": 4,
    "train.steps": 8,
    "train.eval_every": 4,
    "train.checkpoint_every": 3,
    "train.log_every": 1,
}
"""Settings of a run of a second."""
KINDS = {
    "frozen": {"train.freeze": True, "train.views": 3},
    "frozen, eomt": {"head.name": "eomt", "train.freeze": True, "train.views": 1},
    "all layers": {"train.freeze": False, "train.accumulate": 2, "train.batch_size": 2, "model.drop_path": 0.2},
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, half a second each; the tests of the command do."""
    monkeypatch.setattr(RunLogger, "draw_curves", lambda _: None)
    monkeypatch.setattr(result, "save_predictions", lambda *_: None)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_random(folder, "vit_test")
    return folder


def new_model(config: FinetuneConfig, data: TaskData) -> TaskModel:
    start = open_encoder(config.model)
    return build_model(config, TaskStart(start.spec, start.weights), make_spec(config, data))


class StoppedByTest(BaseException):
    """Raised in a callback in place of a kill."""


class StopAt(FinetuneCallback):
    """Callback that calls an action after a step."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_step_end(self, step: int, metrics: FinetuneMetrics | None) -> None:
        if step == self.step:
            self.action()


def raise_it() -> None:
    raise StoppedByTest


def assert_same_run(first: Path, second: Path) -> None:
    """Two runs have equal weights, scores and rows, but for what depends on time."""
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    first_rows, second_rows = untimed_rows(first), untimed_rows(second)
    assert first_rows == second_rows
    assert [row["step"] for row in first_rows] == list(range(1, 9))
    for name in ("scores.json", "model.json"):
        assert (first / name).read_text() == (second / name).read_text()


def untimed_rows(run: Path) -> list[dict[str, Any]]:
    timed = {"images_per_second", "data_wait", "seconds"}
    return [{k: v for k, v in row.items() if k not in timed} for row in read_json_lines(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def references(blocks: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLogger, "draw_curves", lambda _: None)
        patch.setattr(result, "save_predictions", lambda *_: None)
        folder = tmp_path_factory.mktemp("runs")
        yield {
            kind: finetune("segment", blocks, folder / kind, model=encoder, settings=SMALL | settings)
            for kind, settings in KINDS.items()
        }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_resumes_to_the_same_bytes(
    kind: str, blocks: Path, encoder: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = SMALL | KINDS[kind]
    killed = start_forked(tmp_path, finetune_and_kill, torch.get_num_threads(), blocks, run, encoder, settings)
    assert killed.wait(300) == -signal.SIGKILL, killed.stderr
    assert not (run / "scores.json").exists()
    finetune("segment", blocks, run, resume=True)
    assert_same_run(references[kind], run)
    assert not (run / "features").exists()


def test_a_stop_saves_can_be_finished_and_resumes_to_the_same_bytes(
    gtsa_here: Callable, blocks: Path, encoder: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    class Stop(FinetuneCallback):
        steps = 0

        def on_step_end(self, step: int, metrics: FinetuneMetrics | None) -> None:
            self.steps = step

        def should_stop(self) -> bool:
            return self.steps == 1

    finetune("segment", blocks, tmp_path, model=encoder, settings=SMALL | KINDS["frozen"], callback=Stop())
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step*"))] == ["step_00000002.ckpt"]
    with pytest.raises(ValueError, match="already holds a run; add --resume"):
        finetune("segment", blocks, tmp_path, model=encoder, settings=SMALL)
    done = gtsa_here("finetune", "segment", "--finish", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "written from the checkpoint of step 2 of 8; --resume continues the run" in done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["step"], scores["steps"], scores["planned_steps"]) == (2, 2, 8)
    data = open_task_data(resolve_finetune("segment", tmp_path, True, None, None, {}))
    own = score_model(load_task_model(tmp_path).eval(), data, validation_images(data))
    assert scores["miou"] == pytest.approx(own["miou"])
    wrong = gtsa_here("finetune", "segment", "--finish", "--out", tmp_path, "--steps", "9")
    assert (wrong.returncode, "omit the settings" in wrong.stderr) == (2, True)
    assert gtsa_here("finetune", "segment", "--finish", "--out", tmp_path / "none").returncode == 2
    finetune("segment", blocks, tmp_path, resume=True)
    assert_same_run(references["frozen"], tmp_path)


class Notices(FinetuneCallback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_notice(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_run_equals_one_of_that_length(kind: str, blocks: Path, encoder: Path, tmp_path: Path) -> None:
    constant = {"optim.lr": 1e-3, "optim.final_lr": 1e-3, "optim.warmup_steps": 0, "head.name": "linear"}
    settings = SMALL | KINDS[kind] | constant
    finetune("segment", blocks, tmp_path / "whole", model=encoder, settings=settings)
    finetune("segment", blocks, tmp_path / "parts", model=encoder, settings=settings | {"train.steps": 4})
    notices, more = Notices(), {"train.steps": 8}
    finetune("segment", blocks, tmp_path / "parts", settings=more, resume=True, callback=notices)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert untimed_rows(whole) == untimed_rows(parts)
    assert json.loads((parts / "model.json").read_text())["training"]["extensions"] == [[4, 4, 8]]
    [line] = [text for text in notices.messages if text.startswith("extended")]
    assert line.startswith("extended from 4 to 8 steps: from step 4 on the schedule is that of 8 (learning rate 0.001")
    finetune("segment", blocks, parts, resume=True)  # the folder knows its new length
    with pytest.raises(ValueError, match="has 8 steps, these settings give 5; give more to extend it"):
        finetune("segment", blocks, parts, settings={"train.steps": 5}, resume=True)


def test_an_extended_run_follows_the_schedule_of_its_new_length(blocks: Path, encoder: Path, tmp_path: Path) -> None:
    settings = SMALL | {"train.freeze": True, "head.name": "linear", "train.steps": 4}
    finetune("segment", blocks, tmp_path, model=encoder, settings=settings)
    notices = Notices()
    finetune("segment", blocks, tmp_path, settings={"train.epochs": 2.4}, resume=True, callback=notices)
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    config = resolve_finetune("segment", tmp_path, True, None, None, {})
    images = len(training_images(open_task_data(config)))
    assert config.train.steps == round(2.4 * images / 4) == len(rows)
    rates = learning_rates(config, 4, images)
    assert [row["lr"] for row in rows[4:]] == pytest.approx(rates[4:].tolist())
    [line] = [text for text in notices.messages if text.startswith("extended")]
    assert f"(learning rate {rows[3]['lr']:.4g} to {rows[4]['lr']:.4g})" in line


def test_features_that_a_kill_cuts_off_are_continued(blocks: Path, encoder: Path, tmp_path: Path) -> None:
    class StopInFeatures(FinetuneCallback):
        def on_progress(self, stage: str, done: int, total: int) -> None:
            if stage == "features for training" and done > 8:
                raise StoppedByTest

    settings = SMALL | KINDS["frozen"] | {"train.features": str(tmp_path / "features")}
    with pytest.raises(StoppedByTest):
        finetune("segment", blocks, tmp_path / "run", model=encoder, settings=settings, callback=StopInFeatures())
    [index] = (tmp_path / "features").glob("*/index.json")
    assert json.loads(index.read_text())["chunks"] == 2
    (index.parent / "features.bin").write_bytes((index.parent / "features.bin").read_bytes() + b"cut off")
    stages: list[tuple[str, int]] = []

    class Watch(FinetuneCallback):
        def on_progress(self, stage: str, done: int, total: int) -> None:
            stages.append((stage, done))

    finetune("segment", blocks, tmp_path / "run", resume=True, callback=Watch())
    assert [done for stage, done in stages if stage == "features for training"] == [24, 30]
    again: list[tuple[str, int]] = []
    stages = again
    finetune("segment", blocks, tmp_path / "other", model=encoder, settings=settings, callback=Watch())
    assert not [stage for stage, _ in again if stage.startswith("features")], "the kept features were not used"
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()


def test_frozen_features_are_those_of_the_encoder(blocks: Path, encoder: Path, tmp_path: Path) -> None:
    config = load_finetune_config(
        "segment", overrides={"data.source": str(blocks), "model.weights": str(encoder), "train.freeze": True}
    )
    config = config.model_copy(
        update={"head": config.head.model_copy(update={"name": "linear", "layers": (), "blocks": 0, "channels": 16})}
    )
    config = config.model_copy(update={"augment": config.augment.model_copy(update={"size": 64})})
    data = open_task_data(config)
    model = new_model(config, data).eval()
    images = training_images(data)
    features = open_features(model, data, images, 2, 0, "fp32", tmp_path)
    assert features.compute()
    policy = input_policy(model.spec, model.encoder)
    for number in (0, 3, len(images) + 3):
        item = features.items[number]
        pixels = image_input(open_labeled(data, item.image), policy, model.encoder)
        pixels = pixels[..., ::-1].copy() if item.view == 1 else pixels
        with torch.no_grad():
            [expected] = model.features(torch.from_numpy(pixels)[None])
        batch = features.read([number])
        torch.testing.assert_close(batch.inputs[0], expected, rtol=2e-3, atol=2e-3)
        label = data.label(item.image)
        label = label[:, ::-1] if item.view == 1 else label
        assert (batch.labels[0].numpy() == label[2::4, 2::4]).all()


def test_every_epoch_uses_every_item_once_and_batches_depend_on_the_step_alone(
    blocks: Path, encoder: Path, tmp_path: Path
) -> None:
    config = resolve_finetune(
        "segment", tmp_path / "none", False, None, None, {"data.source": str(blocks), "model.weights": str(encoder)}
    )
    config = config.model_copy(
        update={"head": config.head.model_copy(update={"name": "linear", "layers": (), "blocks": 0, "channels": 16})}
    )
    config = config.model_copy(update={"augment": config.augment.model_copy(update={"size": 64})})
    data = open_task_data(config)
    model = new_model(config, data).eval()
    features = open_features(model, data, training_images(data), 1, 0, "fp32", tmp_path)
    read: list[list[int]] = []
    features.read = lambda numbers: read.append(list(numbers))  # type: ignore[method-assign, assignment, func-returns-value, return-value]
    whole = FrozenBatches(features, 5, 0, 0, 1, 0)
    for _ in range(6):
        next(whole)
    for epoch in range(3):
        assert sorted([*read[2 * epoch], *read[2 * epoch + 1]]) == list(range(10))
    assert read[:2] != read[2:4]
    expected = read[3:]
    read.clear()
    later = [FrozenBatches(features, 5, 0, rank, 3, 1) for rank in range(3)]
    for batches in later:
        next(batches)
    assert read == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_model_has_the_scores_that_the_run_says(kind: str, blocks: Path, references: dict[str, Path]) -> None:
    run = references[kind]
    config = resolve_finetune("segment", run, True, None, None, {})
    data = open_masks(config.data, 0)
    scores = score_model(load_task_model(run), data, validation_images(data))
    saved = json.loads((run / "scores.json").read_text())
    assert scores["miou"] == pytest.approx(saved["miou"], abs=0.1)  # features are kept in float16
    assert saved["val_images"] == len(validation_images(data)) == 4
    best = max(row["miou"] for row in read_json_lines(run / "metrics.jsonl") if "miou" in row)
    assert saved["miou"] == pytest.approx(best)


def test_freezing_leaves_the_encoder_as_it_is_and_training_all_layers_does_not(
    encoder: Path, references: dict[str, Path]
) -> None:
    before = safetensors.torch.load_file(encoder / "encoder.safetensors")
    for kind, run in references.items():
        after = safetensors.torch.load_file(run / "model.safetensors")
        kept = {name: after[f"encoder.{name}"] for name in before if f"encoder.{name}" in after}
        assert all(torch.equal(before[name], value) for name, value in kept.items()) == (kind != "all layers")
        assert (len(kept) == len(before)) == (kind != "frozen, eomt")  # the last block is a part of the head


def test_a_run_from_a_fine_tuned_model_goes_on_with_its_head(
    blocks: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    begun, settings = references["frozen"], SMALL | KINDS["all layers"] | {"train.steps": 1, "optim.lr": 0.0}
    run = finetune("segment", blocks, tmp_path / "run", model=begun, settings=settings)
    before, after = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (begun, run))
    assert before.keys() == after.keys()
    averages = ("running_mean", "running_var", "num_batches_tracked")  # a step changes them at any rate
    assert [x for x in before if not x.endswith(averages) and not torch.equal(before[x], after[x])] == []
    assert f"the head starts with the weights of that in {begun}" in (run / "train.log").read_text()


@pytest.mark.parametrize(
    ("settings", "reason"), [({"head.name": "linear"}, "head, layers"), ({"data.ignore": ["1"]}, "classes")]
)
def test_a_head_of_another_kind_or_for_other_classes_is_new(
    settings: dict[str, Any], reason: str, blocks: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    settings = SMALL | {"train.freeze": True, "train.views": 1, "train.steps": 1} | settings
    run = finetune("segment", blocks, tmp_path / "run", model=references["frozen"], settings=settings)
    assert f"the head is new: that of {references['frozen']} has other {reason}" in (run / "train.log").read_text()


@pytest.mark.parametrize(("head", "freeze"), [("fpn", False), ("linear", False), ("linear", True), ("eomt", True)])
def test_four_images_of_clear_colors_are_learned(head: str, freeze: bool, tmp_path: Path) -> None:
    write_halves(tmp_path / "data", 4)
    settings = SMALL | {"head.name": head, "train.freeze": freeze, "train.steps": 40, "train.eval_every": 40}
    settings |= {"augment.scale": (1.0, 1.0), "augment.color": 0.0, "optim.lr": 3e-3, "train.views": 1}
    run = finetune("segment", tmp_path / "data", tmp_path / "run", random="vit_test", settings=settings)
    assert json.loads((run / "scores.json").read_text())["miou"] > 95


@pytest.mark.parametrize("freeze", [True, False])
def test_classes_of_clear_colors_are_learned(freeze: bool, tmp_path: Path) -> None:
    data = write_color_classes(tmp_path / "data")
    settings = {"train.steps": 20, "train.freeze": freeze, "train.workers": 0, "augment.size": 32, "optim.lr": 3e-3}
    settings |= {"augment.mixup": 0.0 if freeze else 0.2, "augment.smoothing": 0.1, "train.class_weights": "sqrt"}
    run = finetune("classify", data, tmp_path / "run", random="vit_test", settings=settings)
    scores = json.loads((run / "scores.json").read_text())
    assert scores["top1"] == 100
    assert np.array(scores["confusion"]).sum() == scores["val_images"]


def test_a_resumed_run_refuses_other_images_and_settings(blocks: Path, encoder: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(blocks, data)
    settings = SMALL | KINDS["frozen"]
    with pytest.raises(StoppedByTest):
        finetune("segment", data, run, model=encoder, settings=settings, callback=StopAt(4, raise_it))
    with pytest.raises(ValueError, match=r"other settings .*optim\.lr: 0\.001, 0\.1"):
        finetune("segment", data, run, settings={"optim.lr": 0.1}, resume=True)
    with pytest.raises(ValueError, match="is for the task segment"):
        finetune("classify", data, run, resume=True)
    with pytest.raises(ValueError, match="has steps of 4 images, now 2; keep their number"):
        finetune("segment", data, run, settings={"train.batch_size": 2}, resume=True)
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="does not exist"):
        finetune("segment", data, run, resume=True)
    shutil.copyfile(moved / "train/images/ä0.png", moved / "train/images/ä1.png")
    with pytest.raises(ValueError, match="not those that the run began with"):
        finetune("segment", moved, run, resume=True)
