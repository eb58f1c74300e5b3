"""Runs: run folder, resuming after kills and faults, several processes, unreadable images."""

import json
import math
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from helpers.commands import GTSA, one_thread, sets
from helpers.processes import (
    kill_at_the_second_checkpoint,
    limit_files_to_one_megabyte,
    run_by_torchrun,
    run_gtsa,
    start_gtsa,
)
from helpers.weights import save_random

from gtsa_kit.config import load_config
from gtsa_kit.export import load
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.inspect_file import inspect_file
from gtsa_kit.export.source import open_source
from gtsa_kit.files import read_json_lines
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.optim import make_schedules
from gtsa_kit.training.pretrain import resolve_config
from gtsa_kit.training.resume import extensions_of
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import ThroughputMeter
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback

STEPS = 12


def settings_for(images: Path, tiny: dict[str, object], **more: object) -> dict[str, object]:
    return {
        **tiny,
        "train.steps": STEPS,
        "train.checkpoint_every": 3,
        **{k.replace("__", "."): v for k, v in more.items()},
    }


def run_here(
    images: Path, out: Path, settings: dict[str, object], resume: bool = False, callback: TrainerCallback | None = None
):
    return train(load_config(overrides={"data": str(images), **settings}), out, resume, callback or TrainerCallback())


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_json_lines(run / "metrics.jsonl")]


def assert_same_run(a: Path, b: Path) -> None:
    """Assert that two runs are bit-identical: student, teacher, optimizer, encoder, and one loss per step."""
    one, other = load_checkpoint(a), load_checkpoint(b)
    assert one["step"] == other["step"]
    assert one["model"].keys() == other["model"].keys()
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    for index, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, other["optimizer"]["state"][index][name]), (index, name)
    assert (a / "encoder.safetensors").read_bytes() == (b / "encoder.safetensors").read_bytes()
    assert losses(a) == losses(b)
    assert [step for step, _ in losses(a)] == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def reference(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an uninterrupted run by the command line with one worker process."""
    from helpers.commands import TINY

    out = tmp_path_factory.mktemp("reference") / "run"
    done = run_gtsa(out.parent, *command(images, out, dict(TINY)))
    assert done.returncode == 0, done.stderr
    return out


def command(images: Path, out: Path, tiny: dict[str, object]) -> list[str]:
    settings = settings_for(images, tiny, train__workers=1)
    return ["train", str(images), "--out", str(out), *sets(settings)]


def test_run_folder_is_complete(reference: Path) -> None:
    names = {path.name for path in reference.iterdir()}
    assert names >= {
        *("config.yaml", "metrics.jsonl", "train.log", "tensorboard", "curves.png", "checkpoints"),
        *("encoder.safetensors", "encoder.json"),
    }
    assert not list(reference.rglob("*.tmp"))
    checkpoints = reference / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        *("SHA256SUMS", "last", "step_00000009.ckpt", "step_00000012.ckpt")
    ]
    assert (checkpoints / "last").samefile(checkpoints / "step_00000012.ckpt")
    assert (reference / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((reference / "tensorboard").iterdir())
    about = json.loads((reference / "encoder.json").read_text())
    assert about["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert about["training"]["steps"] == STEPS
    resolved = load_config(file=reference / "config.yaml")
    assert resolved.train.steps == STEPS
    assert resolved.model.arch == "vit_test"
    row = read_json_lines(reference / "metrics.jsonl")[-1]
    columns = (
        "loss region correspondence rotation rotation_accuracy region_loss_constant_baseline "
        "feature_std effective_rank lr teacher_momentum "
        "images_per_second"
    )
    assert set(columns.split()) <= row.keys()


def test_encoder_is_the_teacher_and_loads_in_plain_timm(reference: Path) -> None:
    about = json.loads((reference / "encoder.json").read_text())["architecture"]
    model = timm.create_model(about["timm_model"], num_classes=0, **about["timm_kwargs"])
    weights = safetensors.torch.load_file(reference / "encoder.safetensors")
    model.load_state_dict(weights, strict=True)
    teacher = load_checkpoint(reference)["model"]
    for name, tensor in weights.items():
        assert torch.equal(tensor, teacher[f"teacher.encoder.vit.{name}"])


def test_small_encoder_has_the_key_names_of_vit_small(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    """ViT-Ti has a quarter of its weights, under the same names."""
    settings = {**settings_for(images, tiny), "model.arch": "vit_tiny", "train.steps": 1, "train.batch_size": 2}
    assert run_here(images, tmp_path / "run", settings)
    weights = safetensors.torch.load_file(tmp_path / "run" / "encoder.safetensors")
    timm.create_model("vit_tiny_patch16_224", num_classes=0).load_state_dict(weights, strict=True)
    with torch.device("meta"):
        assert weights.keys() == timm.create_model("vit_small_patch16_224", num_classes=0).state_dict().keys()


def test_run_killed_at_random_times_and_resumed_is_bit_identical(
    gtsa_here, images: Path, tiny: dict[str, object], reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    base = command(images, out, tiny)
    rng = random.Random(7)
    for kill in range(3):
        before = len(losses(out))
        process = start_gtsa(tmp_path, *base, *(["--resume"] if kill else []))
        steps = min(STEPS - 1, max(before, 3 * kill) + 1)
        process.wait_for(lambda steps=steps: len(losses(out)) >= steps)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
    done = gtsa_here(*base, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(reference, out)


def test_run_killed_while_writing_a_checkpoint(
    gtsa_here, images: Path, tiny: dict[str, object], reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    base = command(images, out, tiny)
    killed = run_gtsa(tmp_path, *base, before=kill_at_the_second_checkpoint)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == [".step_00000006.ckpt.tmp", "SHA256SUMS", "last", "step_00000003.ckpt"]
    done = gtsa_here(*base, "--resume")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 3" in done.stderr
    assert_same_run(reference, out)


def test_ctrl_c_saves_and_prints_how_to_resume(
    gtsa_here, images: Path, tiny: dict[str, object], reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    base = command(images, out, tiny)
    process = start_gtsa(tmp_path, *base)
    process.wait_for(lambda: len(losses(out)) >= 4)
    assert process.returncode is None, process.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130, process.stderr
    assert f"gtsa train --resume --out {out}" in process.stderr
    assert "Traceback" not in process.stderr
    assert load_checkpoint(out)["step"] == losses(out)[-1][0] < STEPS
    # The printed command has neither folder nor settings; they are read from the run.
    done = gtsa_here("train", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    assert_same_run(reference, out)


def test_resuming_a_finished_run_changes_nothing(reference: Path, images: Path, tiny: dict[str, object]) -> None:
    before = (reference / "encoder.safetensors").read_bytes()
    assert run_here(images, reference, settings_for(images, tiny), resume=True)
    assert (reference / "encoder.safetensors").read_bytes() == before
    assert [step for step, _ in losses(reference)] == list(range(1, STEPS + 1))


class StopAtFive(TrainerCallback):
    """Stops the run during step 5."""

    steps = 0

    def on_step_end(self, step: int, metrics: object) -> None:
        self.steps = step

    def should_stop(self) -> bool:
        return self.steps == 4


def test_resumed_run_ignores_images_added_later(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    whole = settings_for(folder, tiny)
    run_here(folder, tmp_path / "a", whole)
    assert not run_here(folder, tmp_path / "b", whole, callback=StopAtFive())
    (folder / "a new one.jpg").write_bytes((folder / "p0.jpg").read_bytes())
    assert run_here(folder, tmp_path / "b", whole, resume=True)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_views_made_on_the_device_give_the_same_losses(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    whole = settings_for(images, tiny)
    run_here(images, tmp_path / "workers", whole)
    on_device = whole | {"train.augment_on": "device", "train.workers": 1}
    assert not run_here(images, tmp_path / "device", on_device, callback=StopAtFive())
    assert run_here(images, tmp_path / "device", on_device, resume=True)
    # Random numbers are equal; pixels differ by single levels, which training amplifies slowly.
    for (step, a), (_, b) in zip(losses(tmp_path / "workers"), losses(tmp_path / "device"), strict=True):
        assert a == pytest.approx(b, abs=0.02), step


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train with one process what the tests train with two."""
    from helpers.commands import TINY

    out = tmp_path_factory.mktemp("alone")
    (out / "start").mkdir()
    save_random(out / "start", "vit_test")
    run_here(images, out / "run", {**TINY, **FOR_TWO, "init.weights": str(out / "start"), "train.batch_size": 4})
    return out / "run"


# In float32 on every machine: sums in another order differ by float32 rounding, which bf16 would enlarge.
# The encoder is frozen in the first two of the four steps: 20 images are 2.5 steps of 8.
FOR_TWO = {
    "model.arch": "init",
    "model.drop_path": 0.3,
    "train.accumulate": 2,
    "train.freeze_encoder_epochs": 0.8,
    "train.precision": "fp32",
    "train.steps": 4,
}


@pytest.mark.parametrize("launcher", ["--devices", "torchrun"])
def test_two_processes_equal_one_with_twice_the_batch(
    launcher: str, images: Path, tiny: dict[str, object], tmp_path: Path, alone: Path
) -> None:
    """Covers drop path, gradients that are exchanged once per two micro-steps, and the end of a frozen phase."""
    options = [*sets({**tiny, **FOR_TWO, "init.weights": alone.parent / "start"}), "--batch-size", "2"]
    command = ["train", str(images), *options, "--out", str(tmp_path / "two")]
    if launcher == "torchrun":
        run_by_torchrun(2, *command)
    else:
        two = [*GTSA, *command, "--devices", "2"]
        done = subprocess.run(two, env=one_thread(), capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr
    for (step, a), (_, b) in zip(losses(alone), losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=2e-5), step
    weights = [safetensors.torch.load_file(run / "encoder.safetensors") for run in (alone, tmp_path / "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=2e-5, rtol=0)
    start = safetensors.torch.load_file(alone / "initial.safetensors")
    assert not torch.equal(weights[0]["blocks.0.attn.qkv.weight"], start["blocks.0.attn.qkv.weight"])


def test_micro_steps_equal_the_whole_batch(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    shared = {**tiny, "train.precision": "fp32", "train.steps": 6, "model.drop_path": 0.0}
    run_here(images, tmp_path / "whole", {**shared, "train.batch_size": 8})
    run_here(images, tmp_path / "parts", {**shared, "train.batch_size": 4, "train.accumulate": 2})
    for (step, a), (_, b) in zip(losses(tmp_path / "whole"), losses(tmp_path / "parts"), strict=True):
        assert a == pytest.approx(b, abs=2e-5), step


def test_non_finite_loss_stops_and_keeps_the_last_checkpoint(
    images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    settings = {
        **settings_for(images, tiny),
        "optim.lr": 1e30,
        "optim.warmup_epochs": 0,
        "train.checkpoint_every": 1,
    }
    with pytest.raises(RunFailedError, match="not finite"):
        run_here(images, tmp_path / "run", settings)
    state = load_checkpoint(tmp_path / "run")
    if state is not None:
        assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert len(losses(tmp_path / "run")) < STEPS


def test_non_finite_loss_exits_with_1_and_a_hint(
    gtsa_here, images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    settings = {**settings_for(images, tiny), "optim.lr": 1e30, "optim.warmup_epochs": 0}
    done = gtsa_here("train", images, "--out", tmp_path / "run", *sets(settings))
    assert done.returncode == 1
    assert "not finite" in done.stderr
    assert "optim.lr" in done.stderr
    assert "Traceback" not in done.stderr


def with_unreadable(images: Path, folder: Path, unreadable: int) -> Path:
    folder.mkdir()
    for path in images.iterdir():
        content = path.read_bytes()
        for copy in range(2):
            (folder / f"{copy}{path.name}").write_bytes(content)
    for index in range(unreadable):
        (folder / f"damaged{index}.jpg").write_bytes((images / "p1.jpg").read_bytes()[: 300 * index])
    return folder


def test_few_unreadable_images_are_skipped_and_listed(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    folder = with_unreadable(images, tmp_path / "images", 2)
    assert run_here(folder, tmp_path / "run", {**tiny, "train.steps": 2})
    rows = read_json_lines(tmp_path / "run" / "errors.jsonl")
    assert [row["path"] for row in rows] == ["damaged0.jpg", "damaged1.jpg"]
    assert rows[0]["reason"] == "empty file"
    assert json.loads((tmp_path / "run" / "encoder.json").read_text())["training"]["unreadable"] == 2


def test_more_than_five_percent_unreadable_images_stop_the_run(
    gtsa_here, images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    folder = with_unreadable(images, tmp_path / "images", 3)
    done = gtsa_here("train", folder, "--out", tmp_path / "run", *sets({**tiny, "train.steps": 2}))
    assert done.returncode == 1
    assert "3 of 43 images are unreadable, more than 5%" in done.stderr
    assert len(read_json_lines(tmp_path / "run" / "errors.jsonl")) == 3
    # The folder can still be used: without the damaged files the same command works.
    for path in folder.glob("damaged*"):
        path.unlink()
    assert run_here(folder, tmp_path / "run", {**tiny, "train.steps": 1})


def test_images_that_become_unreadable_during_the_run(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    folder = with_unreadable(images, tmp_path / "images", 0)

    class DeleteImages(TrainerCallback):
        def on_train_start(self, schedule: TrainSchedule, config: object, step: int, device: str) -> None:
            for path in sorted(folder.iterdir())[:10]:
                path.unlink()

    with pytest.raises(RunFailedError, match="of 40 images are unreadable"):
        run_here(folder, tmp_path / "run", {**tiny, "train.steps": 20}, callback=DeleteImages())
    rows = read_json_lines(tmp_path / "run" / "errors.jsonl")
    assert 3 <= len(rows) <= 10  # the third of 40 exceeds 5%; a batch may contain several
    assert rows[0]["reason"] == "no such file or directory"


def test_full_disk_is_reported_and_keeps_the_run(
    gtsa_here, images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    """Simulate the full disk by a limit on file size: writes fail at the same point in the same way."""
    out = tmp_path / "run"
    base = ["train", images, "--out", out, *sets(settings_for(images, tiny))]
    done = run_gtsa(tmp_path, *base, before=limit_files_to_one_megabyte)
    assert done.returncode == 1, done.stderr
    assert "checkpoint" in done.stderr or "too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((out / "checkpoints").iterdir())
    done = gtsa_here(*base, "--resume")
    assert done.returncode == 0, done.stderr


def test_existing_run_is_not_overwritten(gtsa_here, reference: Path, images: Path, tiny: dict[str, object]) -> None:
    done = gtsa_here("train", images, "--out", reference, *sets(settings_for(images, tiny)))
    assert done.returncode == 2
    assert "--resume" in done.stderr


def test_resuming_with_other_settings_names_them(gtsa_here, reference: Path, images: Path) -> None:
    done = gtsa_here("train", "--resume", "--out", reference, "--set", "loss.rotation_weight=0.1")
    assert done.returncode == 2
    assert "loss.rotation_weight: 0.5, 0.1" in done.stderr


CONSTANT = {
    "optim.lr": 1e-3,
    "optim.final_lr": 1e-3 * 4 / 256,
    "optim.warmup_epochs": 0,
    "optim.final_weight_decay": 0.04,
    "optim.teacher_momentum": 0.9,
    "optim.final_teacher_momentum": 0.9,
}
"""Schedules that do not depend on the length of a run."""


class Notices(TrainerCallback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_notice(self, message: str) -> None:
        self.messages.append(message)


def test_an_extended_run_equals_one_of_that_length(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    settings = {**settings_for(images, tiny), **CONSTANT}
    run_here(images, tmp_path / "whole", settings)
    run_here(images, tmp_path / "parts", {**settings, "train.steps": 5})
    notices = Notices()
    assert run_here(images, tmp_path / "parts", settings, resume=True, callback=notices)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    about = json.loads((tmp_path / "parts" / "encoder.json").read_text())["training"]
    assert (about["steps"], about["extensions"]) == (12, [[5, 5, 12]])
    [line] = [text for text in notices.messages if text.startswith("extended")]
    assert "extended from 5 to 12 steps: from step 5 on all schedules are those of 12" in line


def test_an_extended_run_follows_the_schedules_of_its_new_length(
    images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    run, columns = tmp_path / "run", ("lr", "weight_decay", "teacher_momentum", "alpha")
    run_here(images, run, {**settings_for(images, tiny), "train.steps": 5})
    # The saved settings have steps, which would hide the epochs if they were kept.
    config = resolve_config(run, True, None, None, {"train.epochs": 2.0})
    assert (config.train.steps, config.train.epochs) == (None, 2.0)
    notices = Notices()
    assert train(config, run, True, notices)
    rows = read_json_lines(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 11))
    schedule = TrainSchedule(images=20, batch=4, steps=10, warmup=5)
    expected = make_schedules(config.optim, 10, 5, 4, make_method(config).schedules(schedule))
    for row in rows[5:]:
        assert {name: row[name] for name in columns} == {
            name: value for name, value in expected.at(row["step"] - 1).items() if name in columns
        }
    [line] = [text for text in notices.messages if text.startswith("extended")]
    assert f"learning rate {rows[4]['lr']:.4g} to {rows[5]['lr']:.4g}" in line
    with pytest.raises(ValueError, match="has 10 steps, these settings give 7; give more to extend it"):
        run_here(images, run, {**settings_for(images, tiny), "train.steps": 7}, resume=True)


def test_a_checkpoint_of_another_version_is_named() -> None:
    schedule = TrainSchedule(images=20, batch=4, steps=10, warmup=5)
    with pytest.raises(ValueError, match="the checkpoint is that of another version"):
        extensions_of({"step": 3, "schedule": schedule.to_dict()}, schedule)


def test_a_run_ended_early_has_the_teacher_of_its_last_checkpoint_and_can_go_on(
    gtsa_here, images: Path, tiny: dict[str, object], reference: Path, tmp_path: Path
) -> None:
    run, settings = tmp_path / "run", settings_for(images, tiny)
    assert not run_here(images, run, settings, callback=StopAtFive())
    done = gtsa_here("train", "--finish", "--out", run)
    assert done.returncode == 0, done.stderr
    assert "from the checkpoint of step 5 of 12; --resume continues the run" in done.stderr
    teacher = load_checkpoint(run)["model"]
    for name, tensor in safetensors.torch.load_file(run / "encoder.safetensors").items():
        assert torch.equal(tensor, teacher[f"teacher.encoder.vit.{name}"])
    about = json.loads((run / "encoder.json").read_text())["training"]
    assert (about["steps"], about["planned_steps"], about["last"]["step"]) == (5, 12, 5)
    assert run_here(images, run, settings, resume=True)
    assert_same_run(reference, run)
    done = gtsa_here("train", "--finish", "--out", run, "--steps", "7")
    assert done.returncode == 2
    assert "omit the settings" in done.stderr
    assert gtsa_here("train", "--finish", "--out", tmp_path / "none").returncode == 2


@pytest.mark.parametrize(("minutes", "written"), [(1e-9, [1, 2, 3, 4]), (15.0, [4])])
def test_checkpoints_are_written_by_minutes(
    minutes: float, written: list[int], images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    own = {"train.steps": 4, "train.checkpoint_every": 500, "train.keep_checkpoints": 9}
    run_here(images, tmp_path, {**tiny, **own, "train.checkpoint_minutes": minutes})
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert names == [f"step_{step:08d}.ckpt" for step in written]


@pytest.mark.parametrize(("momentum", "lags"), [(0.99, True), ("auto", False)])
def test_a_run_says_when_its_teacher_lags(
    momentum: object, lags: bool, images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    settings = {**settings_for(images, tiny), "train.steps": 6, "optim.teacher_momentum": momentum}

    class Stop(Notices, StopAtFive):
        """Stops the run during step 5, and keeps its notices."""

    first, second = Stop(), Notices()
    assert not run_here(images, tmp_path / "run", settings, callback=first)
    assert run_here(images, tmp_path / "run", settings, resume=True, callback=second)
    rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    share = math.prod(row["teacher_momentum"] for row in rows)
    about = json.loads((tmp_path / "run" / "encoder.json").read_text())["training"]
    assert about["initial_share"] == pytest.approx(share, rel=1e-12)
    lines = [[text for text in one.messages if "the teacher lags" in text] for one in (first, second)]
    if not lags:
        assert share < 1e-3
        assert lines == [[], []]
        return
    for texts in lines:
        assert f"0.99 to 1 over 6 steps it will keep {share:.2g} of its initial weights" in texts[0]
    assert f"it has kept {share:.2g} of its initial weights" in lines[1][-1]
    assert "--branch student" in lines[1][-1]


def test_resuming_with_another_batch_is_rejected(reference: Path, images: Path, tiny: dict[str, object]) -> None:
    settings = {**settings_for(images, tiny), "train.batch_size": 8}
    with pytest.raises(ValueError, match="must be equal"):
        run_here(images, reference, settings, resume=True)


def test_folder_with_other_files_is_not_used(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty"):
        run_here(images, tmp_path, tiny)


def test_every_reader_takes_the_last_checkpoint_of_an_unfinished_run(
    images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert not run_here(images, run, settings_for(images, tiny), callback=StopAtFive())
    assert not (run / "encoder.safetensors").exists()
    teacher = load_checkpoint(run)["model"]
    for name, tensor in load_encoder(run).vit.state_dict().items():
        assert torch.equal(tensor, teacher[f"teacher.encoder.vit.{name}"])
    facts = inspect_file(run)
    assert facts.kind == "unfinished run of gtsa-kit"
    assert "the last checkpoint, of step 5" in facts.note
    assert facts.encoder["sha256"] == load(run).manifest.source_sha256 == open_source(run).sha256


def test_schedule_converts_epochs_to_steps() -> None:
    config = load_config(overrides={"train.batch_size": 8, "train.accumulate": 2})
    schedule = TrainSchedule.from_config(config, images=1000, world=4)
    assert schedule.batch == 64
    assert schedule.steps == round(100 * 1000 / 64)
    assert schedule.warmup == round(10 * 1000 / 64)
    short = TrainSchedule.from_config(load_config(overrides={"train.steps": 10}), 1000, 1)
    assert short.warmup == 5  # at most half of the run


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_trains_on_a_gpu_in_bf16(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    settings = {**settings_for(images, tiny), "train.precision": "bf16"}
    assert run_here(images, tmp_path / "run", settings)


def test_throughput_meter_starts_at_the_resumed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 115.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    meter = ThroughputMeter(batch=8, step=15)
    assert meter.read(20, waited=2.0) == (5 * 8 / 10, 0.2)
    assert meter.read(21, waited=2.5) == (8 / 5, 0.1)
