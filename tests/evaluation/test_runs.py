"""Training of several runs: resumption, finished runs, and changed settings."""

from pathlib import Path

import pytest
from helpers.evaluation_data import quick_config

from gtsa_kit.config import load_config
from gtsa_kit.evaluation.runs import TrainingStoppedError, train_all
from gtsa_kit.training.trainer import TrainerCallback


def test_runs_resume_after_a_stop_and_are_not_trained_twice(
    images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    runs = {f"seed{seed}": quick_config(images, tiny, **{"train.seed": seed}) for seed in (0, 1)}
    steps: list[tuple[str, int]] = []

    class Stopping(TrainerCallback):
        def __init__(self, name: str, after: int) -> None:
            self.name, self.after, self.done = name, after, 0

        def on_step_end(self, step: int, metrics: object) -> None:
            steps.append((self.name, step))
            self.done += 1

        def should_stop(self) -> bool:
            return self.done >= self.after

    with pytest.raises(TrainingStoppedError):
        train_all(runs, tmp_path, lambda name: Stopping(name, 1))
    first = list(steps)
    paths = train_all(runs, tmp_path, lambda name: Stopping(name, 100))
    assert set(first) < set(steps)
    assert sorted(steps) == sorted({(name, step) for name in runs for step in (1, 2, 3)})  # each step once
    times = {name: (path / "encoder.safetensors").stat().st_mtime_ns for name, path in paths.items()}
    train_all(runs, tmp_path, lambda name: pytest.fail(f"{name} is finished"))
    assert times == {name: (path / "encoder.safetensors").stat().st_mtime_ns for name, path in paths.items()}
    other = {"seed0": quick_config(images, tiny, **{"optim.lr": 1.0})}
    with pytest.raises(ValueError, match=r"seed0 holds a run with other settings .*optim\.lr"):
        train_all(other, tmp_path, lambda name: TrainerCallback())


def test_a_resumed_run_keeps_its_resolved_precision(
    images: Path, tiny: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopAtOnce(TrainerCallback):
        def should_stop(self) -> bool:
            return bool(list(tmp_path.glob("run/metrics.jsonl")))

    runs = {"run": quick_config(images, tiny, **{"train.precision": "auto"})}
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: False)
    with pytest.raises(TrainingStoppedError):
        train_all(runs, tmp_path, lambda name: StopAtOnce())
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: pytest.fail("resolved again"))
    train_all(runs, tmp_path, lambda name: TrainerCallback())
    assert load_config(file=tmp_path / "run" / "config.yaml").train.precision == "fp32"
