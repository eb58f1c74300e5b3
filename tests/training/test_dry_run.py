"""Estimate of a run by --dry-run, beside the run itself, and that it leaves nothing behind."""

import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import TINY, sets

from gtsa_kit.config import load_config
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.run_folder import newest_checkpoint
from gtsa_kit.training.dry_run import dry_run
from gtsa_kit.training.measured_steps import MEASURED_STEPS
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback

SETTINGS = {**TINY, "train.steps": 7, "train.checkpoint_every": 2, "train.precision": "fp32"}


@pytest.fixture
def with_unreadable(images: Path, tmp_path: Path) -> Path:
    """Eight images and one file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(images.iterdir())[:8]:
        shutil.copy(path, folder)
    (folder / "z.jpg").write_bytes(b"no image")
    return folder


def test_the_estimate_is_that_of_the_run(with_unreadable: Path, tmp_path: Path) -> None:
    config = load_config(overrides={"data": str(with_unreadable), "train.max_unreadable": 0.5, **SETTINGS})
    result = dry_run(config, TrainerCallback())
    assert result is not None
    assert (result.steps, result.images_per_step, result.images, result.measured_steps) == (7, 4, 8, MEASURED_STEPS)
    assert [Path(entry.name).name for entry in result.unreadable] == ["z.jpg"]

    out = tmp_path / "run"
    assert train(config, out, False, TrainerCallback())
    rates = [row["images_per_second"] for row in read_json_lines(out / "metrics.jsonl")[1:]]
    assert statistics.median(rates) / 10 < result.images_per_second < 10 * statistics.median(rates)  # on a busy machine
    checkpoint = newest_checkpoint(out)
    assert checkpoint is not None
    assert result.checkpoint_bytes == pytest.approx(checkpoint.stat().st_size, rel=0.01)
    assert result.encoder_bytes == pytest.approx((out / "encoder.safetensors").stat().st_size, rel=0.05)
    files = {path.stat().st_ino: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    spare = result.checkpoint_bytes  # of the moment when a checkpoint is written and the oldest still exists
    assert sum(files.values()) <= result.disk_bytes <= sum(files.values()) + spare + 4_000_000


def test_the_command_prints_and_writes_nothing(
    gtsa_here: Callable, with_unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir(), temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    settings = sets({**SETTINGS, "train.max_unreadable": 0.5})
    done = gtsa_here("train", with_unreadable, *settings, "--dry-run")
    assert done.returncode == 0
    rows = {line[1:8].strip(): line[9:] for line in done.stdout.splitlines()[1:] if line[1:2] != " "}
    assert list(rows) == ["model", "images", "steps", "speed", "time", "memory", "disk"]
    assert "7 of 4 images" in rows["steps"]
    assert "images/s, mean of 3 steps" in rows["speed"]
    assert "hours" in rows["time"]
    assert "up to" in rows["memory"]
    assert "GB free" in rows["disk"]
    assert "unreadable: z.jpg: " in done.stdout
    assert not any(here.iterdir())
    assert not any(temporary.iterdir())


def test_a_run_that_would_fail_fails(with_unreadable: Path) -> None:
    config = load_config(overrides={"data": str(with_unreadable), "train.max_unreadable": 0.1, **SETTINGS})
    with pytest.raises(RunFailedError, match=r"1 of 9 images are unreadable, more than 10%; repair or remove them"):
        dry_run(config, TrainerCallback())


@pytest.mark.parametrize("option", ["--resume", "--finish"])
def test_only_a_new_run_is_estimated(gtsa_here: Callable, tmp_path: Path, option: str) -> None:
    done = gtsa_here("train", "--out", tmp_path, option, "--dry-run")
    assert done.returncode == 2
    assert f"omit {option}" in done.stderr
