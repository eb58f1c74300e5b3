"""Runs that are compared, and Table 5: what differs, what is kept, and the one table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.commands import sets
from PIL import Image

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.evaluation.ablation import ablation_runs, merge
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.runs import StoppedError, train_all
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.training.trainer import TrainerCallback


def settings(images: Path, tiny: dict[str, object], **more: object) -> RunConfig:
    return load_config("quick", None, {**tiny, "data": str(images), "train.steps": 3, **more})


def flat(config: RunConfig) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, content in config.model_dump().items()
        if isinstance(content, dict)
        for key, value in content.items()
    }


def test_rows_differ_in_the_weights_of_the_losses_and_in_nothing_else(images: Path, tiny: dict[str, object]) -> None:
    whole = settings(images, tiny)
    runs = ablation_runs(whole)
    changed = {
        name: {key: value for key, value in flat(run).items() if value != flat(whole)[key]}
        for name, run in runs.items()
    }
    assert changed == {
        "region": {"loss.correspondence_weight": 0.0, "loss.rotation_weight": 0.0},
        "region-correspondence": {"loss.rotation_weight": 0.0},
        "whole": {},
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [({"loss.rotation_weight": 0.0}, "loss.rotation_weight"), ({"loss.correspondence_weight": 0.0}, "correspondence")],
)
def test_two_rows_alike_are_refused(
    images: Path, tiny: dict[str, object], change: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        ablation_runs(settings(images, tiny, **change))


def test_runs_go_on_after_a_stop_and_are_not_done_twice(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    runs = {f"seed{seed}": settings(images, tiny, **{"train.seed": seed}) for seed in (0, 1)}
    seen: list[tuple[str, int]] = []

    class Stopping(TrainerCallback):
        def __init__(self, name: str, after: int) -> None:
            self.name, self.after, self.done = name, after, 0

        def on_step_end(self, step: int, metrics: object) -> None:
            seen.append((self.name, step))
            self.done += 1

        def should_stop(self) -> bool:
            return self.done >= self.after

    with pytest.raises(StoppedError):
        train_all(runs, tmp_path, lambda name: Stopping(name, 1))
    first = list(seen)
    paths = train_all(runs, tmp_path, lambda name: Stopping(name, 100))
    assert set(first) < set(seen)
    assert sorted(seen) == sorted({(name, step) for name in runs for step in (1, 2, 3)})  # each step once
    times = {name: (path / "encoder.safetensors").stat().st_mtime_ns for name, path in paths.items()}
    train_all(runs, tmp_path, lambda name: pytest.fail(f"{name} is done"))
    assert times == {name: (path / "encoder.safetensors").stat().st_mtime_ns for name, path in paths.items()}
    other = {"seed0": settings(images, tiny, **{"optim.lr": 1.0})}
    with pytest.raises(ValueError, match=r"seed0 holds a run with other settings .*optim\.lr"):
        train_all(other, tmp_path, lambda name: TrainerCallback())


def test_a_run_that_goes_on_keeps_the_precision_it_settled_on(
    images: Path, tiny: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopAtOnce(TrainerCallback):
        def should_stop(self) -> bool:
            return bool(list(tmp_path.glob("run/metrics.jsonl")))

    runs = {"run": settings(images, tiny, **{"train.precision": "auto"})}
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: False)
    with pytest.raises(StoppedError):
        train_all(runs, tmp_path, lambda name: StopAtOnce())
    monkeypatch.setattr("gtsa_kit.training.fabric.should_use_bf16", lambda device: pytest.fail("measured anew"))
    train_all(runs, tmp_path, lambda name: TrainerCallback())
    assert load_config(file=tmp_path / "run" / "config.yaml").train.precision == "fp32"


def test_reports_become_one_by_model_and_seed() -> None:
    def report(name: str, rows: list[dict[str, Any]]) -> Report:
        return Report(name, name, {"top1": "%"}, rows, {"of": name, "skipped": skipped})

    skipped = [{"path": "a.jpg", "reason": "broken"}]

    one = report("knn", [{"model": m, "seed": s, "top1": 10 * i + s} for i, m in enumerate("ba") for s in (0, 1)])
    two = report(
        "segment", [{"model": f"{m}, {p}", "encoder": m, "probe": p, "seed": 0, "top1": 7} for m in "ab" for p in "xy"]
    )
    models = [Model(name, None, None) for name in ("a", "b")]  # type: ignore[arg-type]
    parts = [
        (one, {"top1": "knn"}, lambda row: row["model"]),
        (two, {"top1": "miou"}, lambda row: row["encoder"] if row["probe"] == "x" else None),
    ]
    merged = merge("ablation", "title", models, parts)
    assert merged.rows == [
        {"model": "a", "seed": 0, "knn": 10, "miou": 7},
        {"model": "a", "seed": 1, "knn": 11},
        {"model": "b", "seed": 0, "knn": 0, "miou": 7},
        {"model": "b", "seed": 1, "knn": 1},
    ]
    assert list(merged.measures) == ["knn", "miou"]
    assert merged.settings["knn"] == {"of": "knn", "skipped": skipped}
    assert merged.settings["skipped"] == skipped  # each once


def test_one_command_gives_one_table(
    gtsa_here: Callable[..., Any], images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for kind in ("dark", "light"):
        for index in range(8):
            pixels = rng.integers(0, 100, (40, 40, 3), dtype=np.uint8) + (0 if kind == "dark" else 150)
            (tmp_path / "classes" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "classes" / kind / f"{index}.png")
    (tmp_path / "classes" / "dark" / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    command = ("eval", "ablation", images, "--labeled", tmp_path / "classes", "--preset", "quick", "--out", out)
    command += ("--seeds", 2, "--size", 32, "--json", *sets({**tiny, "train.steps": 2}))
    done = gtsa_here(*command)
    assert done.returncode == 0, done.stderr
    assert "1 files left out" in done.stderr
    assert "dark/empty.png: empty file" in done.stderr
    report = json.loads(done.stdout)
    assert [line["model"] for line in report["summary"]] == ["l", "l + l_pc", "l + l_pc + l_rp", "random"]
    assert all(0 <= row[key] <= 100 for row in report["rows"] for key in ("knn", "linear"))
    assert report == json.loads((out / "ablation.json").read_text())
    weights = {name: yaml.safe_load((out / name / "config.yaml").read_text())["loss"] for name in ("region", "whole")}
    assert (weights["region"]["rotation"], weights["whole"]["rotation"]) == (0.0, 0.5)
    assert Image.open(out / "ablation.png").size[0] > 300
    again = gtsa_here(*command)
    assert json.loads(again.stdout) == report


def test_without_anything_to_probe_on_nothing_is_trained(
    gtsa_here: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    done = gtsa_here("eval", "ablation", images, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--labeled" in done.stderr
    assert not (tmp_path / "out").exists()
