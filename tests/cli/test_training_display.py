"""Console output of `gtsa train`."""

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from gtsa_kit.cli.support import finetune_display
from gtsa_kit.cli.support import training_display as display
from gtsa_kit.cli.support.training_display import TrainingDisplay, data_wait_advice
from gtsa_kit.config import load_config
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.training.run_logger import StepMetrics


def row(step: int, wait: float) -> StepMetrics:
    return StepMetrics(
        step=step,
        epoch=0.0,
        loss=0.0,
        terms={"region": 0.0},
        feature_std=1.0,
        effective_rank=1.0,
        schedules={"lr": 0.0, "teacher_momentum": 1.0},
        images_per_second=1.0,
        data_wait=wait,
        seconds=1.0,
    )


def printed(waits: list[float], monkeypatch: pytest.MonkeyPatch, **changes: object) -> str:
    monkeypatch.setattr(display, "available_cores", lambda: 8)
    out = io.StringIO()
    callback = TrainingDisplay(Console(file=out, width=300))
    callback.on_train_start(TrainSchedule(10, 2, 100, 0), load_config(overrides=changes), 0, "cpu")
    for step, wait in enumerate(waits, start=1):
        callback.on_step_end(step, row(step, wait))
    return out.getvalue()


def test_waiting_for_images_prints_advice_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed([0.9, 0.2, 0.3, 0.25, 0.2, 0.4, 0.4, 0.4], monkeypatch, **{"train.workers": 2})
    assert text.count("waits 25% of the time") == 1
    assert "--workers 4 (now 2; 8 cores here)" in text


@pytest.mark.parametrize("waits", [[0.9, 0.0, 0.05, 0.0, 0.02, 0.9], [0.5] * 4])
def test_a_slow_start_prints_no_advice(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "waits" not in printed(waits, monkeypatch)


@pytest.mark.parametrize("print_result", [display.print_summary, finetune_display.print_result])
def test_the_next_command_is_one_line_on_a_narrow_terminal(
    print_result: Callable[[Path, Console], None], tmp_path: Path
) -> None:
    scores = {"step": 1, "head": "linear", "val_images": 1, "miou": 1.0, "iou": {"a": 1.0, "b": 1.0}}
    run = tmp_path / "a run with a name longer than the terminal is wide [bold]"
    run.mkdir()
    (run / "scores.json").write_text(json.dumps(scores))
    out = io.StringIO()
    print_result(run, Console(file=out, width=40))
    assert f"next: gtsa export {shlex.quote(str(run))} --format onnx" in out.getvalue().splitlines()


def test_data_wait_is_in_the_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "data wait 7%" in display._format_short(row(1, 0.07))


def test_advice_without_a_free_core_names_other_changes() -> None:
    assert "--workers 1 (now 0" in data_wait_advice(0.5, 0, 2, on_cpu=True)
    assert "--workers" not in data_wait_advice(0.5, 2, 2, on_cpu=True)
    assert "--workers" not in data_wait_advice(0.5, 7, 8, on_cpu=False)
    assert "--workers 8 (now 6" in data_wait_advice(0.5, 6, 8, on_cpu=False)
