"""Memory before the first step: what a step needs, what fits, and what to set if it does not."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import TINY, sets

from gtsa_kit.config import load_config
from gtsa_kit.methods import make_method
from gtsa_kit.training import estimate as module
from gtsa_kit.training.estimate import (
    MAX_AUTO_BATCH_CPU,
    Estimate,
    check_fits,
    device_memory,
    estimate,
    largest_that_runs,
    measure_step,
    smaller_settings,
)
from gtsa_kit.training.fabric import make_fabric
from gtsa_kit.training.guards import memory_errors
from gtsa_kit.training.pretrain import resolve_config
from gtsa_kit.training.run import less_memory, train
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback

GB = 10**9


def config_of(**changes: object) -> Any:
    return load_config(overrides={**TINY, "train.precision": "fp32", **changes})


def estimated(**changes: object) -> Estimate:
    config = config_of(**changes)
    return estimate(lambda: make_method(config), config, make_fabric(config.train))


def test_the_estimate_holds_for_a_larger_batch() -> None:
    config = config_of()
    fabric = make_fabric(config.train)
    measured = estimated()
    used, _ = measure_step(make_method(config).train(), 12, config, fabric)
    activations = module.MEMORY_MARGIN * used
    assert 12 * measured.per_image == pytest.approx(activations, rel=0.1)
    assert measured.needed(12) - measured.needed(2) == 10 * measured.per_image
    assert measured.needed(measured.largest_batch) <= measured.available < measured.needed(measured.largest_batch + 1)


def test_larger_views_need_more_and_recomputation_less() -> None:
    small, large = estimated(), estimated(**{"views.global_size": 128})
    assert large.per_image > 1.5 * small.per_image
    assert large.fixed == pytest.approx(small.fixed, rel=0.2)
    deep = {"model.arch": "vit_mini"}
    build = config_of(**deep)

    def recomputing() -> Any:
        model = make_method(build)
        model.student.encoder.activation_checkpointing = True
        return model

    whole, recomputed = estimated(**deep), estimate(recomputing, build, make_fabric(build.train))
    assert recomputed.per_image < 0.7 * whole.per_image


def test_the_fixed_part_holds_weights_gradients_and_the_optimizers_moments() -> None:
    model = make_method(config_of())
    trained = sum(p.numel() for p in model.student.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    assert module._static_bytes(model) == 4 * (every + 3 * trained)


def test_the_memory_of_this_machine() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < device_memory(torch.device("cpu")) <= 2 * physical  # with swap
    assert 0 < module.used_memory() < physical


@pytest.mark.parametrize(
    ("batch", "fitting", "hint"),
    [
        (64, 20, "try --batch-size 16 --accumulate 8, which is the same step"),
        (64, None, "try --batch-size 32 --accumulate 4, which is the same step"),
        (6, 5, "try --batch-size 3 --accumulate 4"),
        (64, 1, "try a smaller --set model.arch=vit_tiny"),
        (7, 5, "try a smaller --set model.arch=vit_tiny"),
    ],
)
def test_a_step_that_does_not_fit_names_settings_of_the_same_step(batch: int, fitting: int | None, hint: str) -> None:
    config = config_of(**{"train.batch_size": batch, "train.accumulate": 2})
    assert smaller_settings(config, fitting).startswith(hint)
    if fitting:
        measured = Estimate(GB, GB, GB + fitting * GB, 1.0)
        with pytest.raises(ValueError, match=rf"not enough memory: .* up to {fitting} images fit; {hint}"):
            check_fits(measured, config)
        check_fits(measured, config_of(**{"train.batch_size": fitting}))


def test_the_sentence_names_memory_and_time() -> None:
    text = Estimate(2 * GB, GB // 10, 10 * GB, 0.05).sentence(20, steps=600, images_per_step=40)
    assert text.startswith("about 4 GB of memory for 20 images in a micro-step, 10 GB available: up to 80 images fit")
    assert text.endswith("about 20 min of computation")


def test_training_that_can_not_fit_is_refused_before_the_first_step(
    gtsa_here, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "device_memory", lambda device: 0)
    monkeypatch.setattr(module, "used_memory", lambda: 0)
    done = gtsa_here("train", images, "--out", tmp_path / "run", *sets({**TINY, "train.steps": 2}))
    assert done.returncode == 2
    assert "not enough memory" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("images_that_fit", "chosen"), [(5.0, 4), (2.5, 2), (1000.0, MAX_AUTO_BATCH_CPU)])
def test_automatic_batch_size(images_that_fit: float, chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Estimate(GB, GB, int((GB + images_that_fit * GB) / module.SAFE_FRACTION) + 1, 0.1)
    monkeypatch.setattr(module, "estimate", lambda *_: measured)
    config = config_of(**{"train.batch_size": "auto"})
    resolved = module.resolve_batch_size(make_method, config, make_fabric(config.train))
    assert resolved.train.batch_size == chosen


def test_a_run_keeps_its_automatic_batch_size(images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MAX_AUTO_BATCH_CPU", 3)
    config = config_of(**{"data": str(images), "train.batch_size": "auto", "train.steps": 1})
    assert train(config, tmp_path, False, TrainerCallback())
    assert load_config(file=tmp_path / "config.yaml").train.batch_size == 2
    assert resolve_config(tmp_path, True, None, None, {"train.batch_size": "auto"}).train.batch_size == 2


def test_automatic_batch_size_without_room(monkeypatch: pytest.MonkeyPatch, images: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "estimate", lambda *_: Estimate(GB, GB, GB, 0.1))
    config = config_of(**{"data": str(images), "train.batch_size": "auto"})
    with pytest.raises(ValueError, match="not even two images fit"):
        train(config, tmp_path / "run", False, TrainerCallback())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("limit", "chosen"), [(100, 64), (20, 16), (2, 2), (1, 1)])
def test_a_gpu_tries_smaller_batches(limit: int, chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fake(model: object, images: int, config: object, fabric: object) -> tuple[int, float]:
        tried.append(images)
        if images > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0, 0.0

    monkeypatch.setattr(module, "measure_step", fake)
    assert largest_that_runs(None, 64, None, None) == chosen  # type: ignore[arg-type]
    assert tried == [size for size in (64, 32, 16, 8, 4, 2) if size >= max(chosen, 2)]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_names_what_to_set(error: Exception) -> None:
    with (
        pytest.raises(RunFailedError, match="out of memory; try --batch-size 2 --accumulate 2, which is the same step"),
        memory_errors(lambda: less_memory(config_of())),
    ):
        raise error
    with pytest.raises(RuntimeError, match="another"), memory_errors(lambda: less_memory(config_of())):
        raise RuntimeError("another error")


def test_a_run_that_runs_out_of_memory_keeps_its_checkpoint(images: Path, tmp_path: Path) -> None:
    class Full(TrainerCallback):
        def on_step_end(self, step: int, metrics: object) -> None:
            if step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

    config = config_of(**{"data": str(images), "train.steps": 3, "train.checkpoint_every": 1})
    with pytest.raises(RunFailedError, match="out of memory"):
        train(config, tmp_path, False, Full())
    assert "failed: out of memory" in (tmp_path / "train.log").read_text()
    assert (tmp_path / "checkpoints" / "step_00000002.ckpt").exists()


def test_other_values_of_batch_size_are_refused(gtsa_here, images: Path, tmp_path: Path) -> None:
    done = gtsa_here("train", images, "--out", tmp_path / "run", "--batch-size", "many")
    assert done.returncode == 2
    assert "--batch-size takes a number of images or auto, got 'many'" in done.stderr
