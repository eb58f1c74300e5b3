"""Capabilities of the machine: selection of bf16."""

import math

import pytest
import torch

from gtsa_kit import hardware


@pytest.mark.parametrize(
    ("has_bf16", "speedup", "expected"), [(True, 2.0, True), (True, 1.1, False), (False, 9.0, False)]
)
def test_bf16_is_used_if_available_and_faster(
    has_bf16: bool, speedup: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(hardware, "bf16_speedup", lambda: speedup)
    assert hardware.should_use_bf16(torch.device("cpu")) is expected


def test_speedup_is_a_positive_ratio_that_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_BENCHMARK_SHAPE", (64, 32, 48))  # a large product takes seconds without bf16
    hardware.bf16_speedup.cache_clear()
    speedup = hardware.bf16_speedup()
    assert math.isfinite(speedup)
    assert speedup > 0
    monkeypatch.setattr(hardware, "_time_matmul", lambda *_: pytest.fail("measured again"))
    assert hardware.bf16_speedup() == speedup
    hardware.bf16_speedup.cache_clear()  # of a small product
