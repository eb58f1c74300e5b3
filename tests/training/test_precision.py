"""Precision of training: `auto`, and bf16 compared with float32."""

from pathlib import Path

import pytest
import torch
from helpers.datasets import multicrop_dataset
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from gtsa_kit import hardware
from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.augment import collate
from gtsa_kit.files import read_json_lines
from gtsa_kit.methods import make_method
from gtsa_kit.training.fabric import make_fabric, resolve_precision
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import TrainerCallback


def test_auto_is_resolved_and_explicit_precision_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: True)
    assert resolve_precision(load_config()).train.precision == "bf16"
    assert resolve_precision(load_config(overrides={"train.precision": "fp32"})).train.precision == "fp32"
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: False)
    assert resolve_precision(load_config()).train.precision == "fp32"


def settings(images: Path, tiny: dict[str, object], **more: object) -> RunConfig:
    return load_config("quick", None, {**tiny, "data": str(images), "model.drop_path": 0.0, **more})


def test_bf16_gradients_have_the_direction_of_float32_gradients(images: Path, tiny: dict[str, object]) -> None:
    config = settings(images, tiny)
    torch.manual_seed(0)
    method = make_method(config)
    dataset = multicrop_dataset(sorted(images.iterdir()), config.views, seed=0)
    views = collate([dataset[t].content for t in range(8)])
    gradients = []
    for half in (False, True):
        method.zero_grad()
        if half:
            method.use_unfused_attention()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = method(views)
        loss, _ = method.loss(outputs, views, {"alpha": 0.5})
        loss.backward()
        gradients.append({n: p.grad.flatten().clone() for n, p in method.named_parameters() if p.grad is not None})
    float32, bf16 = gradients
    assert float32.keys() == bf16.keys()
    cosines = {
        name: float(F.cosine_similarity(float32[name], bf16[name], dim=0))
        for name in float32
        if float32[name].norm() > 1e-4 * max(g.norm() for g in float32.values())  # the rest is rounding
    }
    assert len(cosines) > 0.8 * len(float32)
    assert min(cosines.values()) > 0.97, min(cosines.items(), key=lambda item: item[1])


@pytest.mark.parametrize(("precision", "fused"), [("fp32", True), ("bf16", False)])
def test_bf16_on_a_cpu_trains_without_the_fused_attention(
    images: Path, tiny: dict[str, object], tmp_path: Path, precision: str, fused: bool
) -> None:
    config = settings(images, tiny, **{"train.steps": 1, "train.precision": precision, "train.workers": 0})
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        assert train(config, tmp_path, False, TrainerCallback())
    # Backward kernels are those of the training; features are also computed without gradients, to see what it learned.
    kernels = {event.key for event in profiler.key_averages() if "backward" in event.key}
    assert any("scaled_dot_product_flash_attention" in kernel for kernel in kernels) is fused


def test_bf16_loss_curve_is_that_of_float32(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    steps = 36 if hardware._cpu_has_bf16() else 12  # without bf16 instructions it is forty times as slow
    curves = []
    for name in ("fp32", "bf16"):
        config = settings(images, tiny, **{"train.steps": steps, "train.precision": name, "train.log_every": 1})
        assert train(config, tmp_path / name, False, TrainerCallback())
        curves.append([row["loss"] for row in read_json_lines(tmp_path / name / "metrics.jsonl")])
    float32, bf16 = (torch.tensor(curve).unflatten(0, (6, steps // 6)).mean(dim=1) for curve in curves)
    assert float32[-1] < float32[0] - 0.1
    assert float((float32 - bf16).abs().max()) < 0.1 * float(float32[0] - float32[-1])


def test_the_precision_is_not_announced_by_fabric(capfd: pytest.CaptureFixture[str]) -> None:
    fabric = make_fabric(load_config(overrides={"train.precision": "bf16"}).train)
    assert "bf16" in fabric._precision.precision
    assert capfd.readouterr() == ("", "")
