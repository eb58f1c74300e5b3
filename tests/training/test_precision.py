"""bf16 where it pays, and only where training agrees with float32."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from gtsa_kit import hardware
from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.augment import collate
from gtsa_kit.data.multicrop import MultiCropDataset
from gtsa_kit.files import read_json_lines
from gtsa_kit.methods import make_method
from gtsa_kit.training.fabric import resolve_precision
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import TrainerCallback


@pytest.mark.parametrize(("has", "ratio", "pays"), [(True, 2.0, True), (True, 1.1, False), (False, 9.0, False)])
def test_bf16_is_taken_where_it_is_there_and_faster(
    has: bool, ratio: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_cpu_has_bf16", lambda: has)
    monkeypatch.setattr(hardware, "bf16_speedup", lambda: ratio)
    assert hardware.should_use_bf16(torch.device("cpu")) is pays


def test_what_is_measured_is_a_ratio_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_BENCHMARK_SHAPE", (64, 32, 48))  # emulated, a large one takes seconds
    assert math.isfinite(hardware.bf16_speedup())
    assert hardware.bf16_speedup() > 0


def test_auto_is_settled_and_a_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: True)
    assert resolve_precision(load_config()).train.precision == "bf16"
    assert resolve_precision(load_config(overrides={"train.precision": "fp32"})).train.precision == "fp32"
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: False)
    assert resolve_precision(load_config()).train.precision == "fp32"


def settings(images: Path, tiny: dict[str, object], **more: object) -> RunConfig:
    return load_config("quick", None, {**tiny, "data": str(images), "model.drop_path": 0.0, **more})


def test_gradients_of_bf16_point_where_those_of_float32_do(images: Path, tiny: dict[str, object]) -> None:
    config = settings(images, tiny)
    torch.manual_seed(0)
    method = make_method(config)
    shown = MultiCropDataset(sorted(images.iterdir()), config.views, seed=0)
    views = collate([shown[t].views for t in range(8)])
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
    wide, narrow = gradients
    assert wide.keys() == narrow.keys()
    cosines = {
        name: float(F.cosine_similarity(wide[name], narrow[name], dim=0))
        for name in wide
        if wide[name].norm() > 1e-4 * max(g.norm() for g in wide.values())  # below that is rounding
    }
    assert len(cosines) > 0.8 * len(wide)
    assert min(cosines.values()) > 0.97, min(cosines.items(), key=lambda item: item[1])


@pytest.mark.parametrize(("said", "fused"), [("fp32", True), ("bf16", False)])
def test_bf16_on_a_cpu_trains_without_the_fused_attention(
    images: Path, tiny: dict[str, object], tmp_path: Path, said: str, fused: bool
) -> None:
    config = settings(images, tiny, **{"train.steps": 1, "train.precision": said, "train.workers": 0})
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        assert train(config, tmp_path, False, TrainerCallback())
    kernels = {event.key for event in profiler.key_averages()}
    assert any("scaled_dot_product_flash_attention" in kernel for kernel in kernels) is fused


def test_bf16_learns_as_float32_does(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    steps = 120 if hardware._cpu_has_bf16() else 12  # emulated, it is forty times as slow
    curves = []
    for name in ("fp32", "bf16"):
        config = settings(images, tiny, **{"train.steps": steps, "train.precision": name, "train.log_every": 1})
        assert train(config, tmp_path / name, False, TrainerCallback())
        curves.append([row["loss"] for row in read_json_lines(tmp_path / name / "metrics.jsonl")])
    wide, narrow = (torch.tensor(curve).unflatten(0, (6, steps // 6)).mean(dim=1) for curve in curves)
    assert wide[-1] < wide[0] - 0.1, "it learns at all"
    assert float((wide - narrow).abs().max()) < 0.1 * float(wide[0] - wide[-1])
