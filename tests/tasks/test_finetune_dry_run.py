"""Estimate of a fine-tuning run by --dry-run, beside the run itself, and that it leaves nothing behind."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import sets
from helpers.evaluation_data import write_blocks, write_color_classes
from helpers.instance_data import draw_images, write_yolo
from helpers.weights import save_random

from gtsa_kit.files import read_json_lines
from gtsa_kit.models.run_folder import newest_checkpoint
from gtsa_kit.tasks.api import finetune, resolve_finetune, start_settings
from gtsa_kit.tasks.dry_run import ENCODED_IMAGES, dry_run
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.training.measured_steps import MEASURED_STEPS

SETTINGS: dict[str, Any] = {
    "train.workers": 0,
    "train.precision": "fp32",
    "train.batch_size": 4,
    "train.steps": 7,
    "train.eval_every": 3,
    "train.log_every": 1,
}


def write_objects(folder: Path) -> Path:
    """Write images with objects of three classes; return the folder."""
    return write_yolo(folder, draw_images(10))


SMALL_HEAD = {"head.channels": 16, "detector.box_channels": 32, "detector.proposals": 40, "augment.size": 64}
KINDS: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any]]] = {
    "pixels, frozen": ("segment", write_blocks, {"head.channels": 16, "train.freeze": True, "train.views": 3}),
    "objects, frozen": ("detect", write_objects, {**SMALL_HEAD, "train.freeze": True, "train.views": 2}),
    "images, all layers": ("classify", write_color_classes, {"train.freeze": False, "train.accumulate": 2}),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_random(folder, "vit_test")
    return folder


class Sizes(FinetuneCallback):
    """Callback of a run that notes the size of its features."""

    features = 0

    def on_train_start(self, state: FinetuneState) -> None:
        self.features = sum(path.stat().st_size for path in state.run_dir.rglob("features.bin"))


@pytest.mark.usefixtures("no_run_figures")
@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_that_of_the_run(kind: str, encoder: Path, tmp_path: Path) -> None:
    task, write, settings = KINDS[kind]
    data, out, sizes = write(tmp_path / "data"), tmp_path / "run", Sizes()
    given = {**start_settings(encoder, None), "data.source": str(data), **SETTINGS, **settings}
    estimate = dry_run(resolve_finetune(task, out, False, None, None, given))  # type: ignore[arg-type]
    assert estimate is not None
    assert not out.exists()

    finetune(task, data, out, model=encoder, settings=SETTINGS | settings, callback=sizes)  # type: ignore[arg-type]
    rows, checkpoint = read_json_lines(out / "metrics.jsonl"), newest_checkpoint(out)
    assert checkpoint is not None
    images = 4 * settings.get("train.accumulate", 1)
    assert (estimate.steps, estimate.images_per_step) == (rows[-1]["step"], images)
    assert (estimate.classes, estimate.measured_steps) == (3, MEASURED_STEPS)
    assert estimate.images > ENCODED_IMAGES or task != "classify"
    assert estimate.images * rows[-1]["epoch"] == pytest.approx(7 * images)
    median = statistics.median(row["images_per_second"] for row in rows[1:] if row["step"] % 3 != 1)  # no scores before
    assert median / 10 < estimate.images_per_second < 10 * median  # on a busy machine
    assert estimate.checkpoint_bytes == pytest.approx(checkpoint.stat().st_size, rel=0.01)
    assert estimate.feature_bytes == sizes.features
    assert (estimate.feature_seconds > 0) == settings["train.freeze"]
    assert estimate.seconds == estimate.feature_seconds + 7 * estimate.seconds_per_step
    weights = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert estimate.model_bytes == pytest.approx(weights, rel=0.05)
    files = {path.stat().st_ino: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    written = sum(files.values()) + sizes.features
    assert written <= estimate.disk_bytes <= written + estimate.checkpoint_bytes + 4_000_000
    assert estimate.peak_bytes > 1e8


@pytest.mark.parametrize(
    ("task", "write", "head", "more"),
    [("classify", write_color_classes, "linear", {}), ("detect", write_objects, "mask-rcnn", SMALL_HEAD)],
)
def test_the_command_prints_and_writes_nothing(
    task: str,
    write: Callable[[Path], Path],
    head: str,
    more: dict[str, Any],
    gtsa_here: Callable,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir(), temporary.mkdir()
    data = write(tmp_path / "data")
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    kept = tmp_path / "kept"
    settings = sets({**SETTINGS, **more, "train.freeze": True, "train.features": kept})
    done = gtsa_here("finetune", task, data, "--model", encoder, *settings, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.strip().partition(" ") for line in done.stdout.splitlines()[1:] if line[1:2] != " "]
    rows = {name: text.strip() for name, _, text in lines}
    assert list(rows) == ["model", "classes", "images", "steps", "speed", "time", "memory", "disk"]
    assert rows["model"].startswith(f"{task}: ")
    assert f", frozen, head {head} on" in rows["model"]
    assert rows["classes"] == "3"
    assert "for training" in rows["images"]
    assert "7 of 4 images" in rows["steps"]
    assert "images/s, mean of 3 steps" in rows["speed"]
    assert "hours" in rows["time"]
    assert "of features and" in done.stdout
    assert "GB at most" in rows["memory"]
    assert "GB free" in done.stdout
    assert not any(here.iterdir())
    assert not any(temporary.iterdir())
    assert not kept.exists()


@pytest.mark.parametrize("option", ["--resume", "--finish"])
def test_only_a_new_run_is_estimated(gtsa_here: Callable, tmp_path: Path, option: str) -> None:
    done = gtsa_here("finetune", "segment", "--out", tmp_path, option, "--dry-run")
    assert done.returncode == 2
    assert f"omit {option}" in done.stderr
