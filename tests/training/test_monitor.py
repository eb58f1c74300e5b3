"""Pictures and k-NN accuracy at every checkpoint, and report.html."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import TINY, sets
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gtsa_kit.config import load_config
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.image_files import list_images
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.training import probe as probe_module
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.finish import teacher_weights
from gtsa_kit.training.fixed_images import load_fixed_images
from gtsa_kit.training.monitor import TILE, Monitor
from gtsa_kit.training.probe import open_probe
from gtsa_kit.training.report import _short_names, _short_source
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import RunLogger
from gtsa_kit.training.trainer import TrainerCallback

STEPS = {"train.steps": 6, "train.checkpoint_every": 2, "train.log_every": 1}


class StopAtThree(TrainerCallback):
    step = 0

    def on_step_end(self, step: int, metrics: object) -> None:
        self.step = step

    def should_stop(self) -> bool:
        return self.step == 3


@pytest.fixture(scope="module", autouse=True)
def no_curves() -> None:
    """Let runs draw their curves, which the report shows; other tests here leave them out."""


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that even random weights tell apart: dark and bright images."""
    folder, rng = tmp_path_factory.mktemp("labeled"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 200)):
        (folder / name).mkdir()
        for index in range(8):
            pixels = rng.integers(low, low + 55, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(images: Path, labeled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a probe that was stopped and resumed."""
    out = tmp_path_factory.mktemp("monitored") / "run<1>"
    config = load_config(overrides={**TINY, **STEPS, "data": str(images), "train.probe": str(labeled)})
    assert not train(config, out, False, StopAtThree())
    assert train(config, out, True, TrainerCallback())
    return out


def test_every_checkpoint_has_a_picture_and_an_accuracy(run: Path) -> None:
    steps = [0, 2, 4, 6]
    strips = sorted((run / "monitor").glob("step_*.png"))
    # Step 4 was the stop; after it the same steps follow.
    assert [int(strip.stem.removeprefix("step_")) for strip in strips] == steps
    assert all(Image.open(strip).size == (8 * TILE, TILE) for strip in [*strips, run / "monitor" / "images.png"])
    rows = read_json_lines(run / "monitor" / "probe.jsonl")
    assert [row["step"] for row in rows] == steps
    assert {row["chance"] for row in rows} == {0.5}
    assert rows[0]["knn_accuracy"] == 1.0


def test_tensorboard_shows_them(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {event.step for event in events.Images("feature_colors")} == {0, 2, 4, 6}
    assert {event.step for event in events.Scalars("knn_accuracy")} == {0, 2, 4, 6}
    assert "region_loss_constant_baseline" in events.Tags()["scalars"]


def test_the_report_is_one_file_without_links(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    sources: list[str] = []
    tags: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            sources.extend(value or "" for name, value in attributes if name in ("src", "href", "srcset", "data"))

    Reader().feed(page)
    assert not tags & {"script", "link", "iframe", "object", "1"}
    assert len(sources) == 1 + 1 + 4 + 1  # curves, the images, four checkpoints, the accuracy
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not re.search(r"https?:", page)
    assert "run&lt;1&gt;" in page
    images = str(load_config(file=run / "config.yaml").data)
    assert os.path.dirname(images) not in page  # a report is handed on
    assert f"images of {os.path.basename(images)};" in page
    assert ">p0.jpg, " in page
    assert "constant baseline of" in page
    assert "100.0% after step 0" in page


def test_names_of_a_list_are_relative_to_the_folder_that_they_share() -> None:
    """Images of a list that lie elsewhere have absolute names in tables."""
    assert _short_names(["/a/b/c/1.jpg", "/a/b/d/2.jpg", "3.jpg"]) == ["c/1.jpg", "d/2.jpg", "3.jpg"]
    assert _short_names(["/a/b/1.jpg"]) == ["1.jpg"]
    assert _short_names(["s3://bucket/1.jpg"]) == ["s3://bucket/1.jpg"]
    assert _short_source("/data/photos") == "photos"
    assert _short_source("s3://bucket/photos") == "s3://bucket/photos"


def test_a_stopped_run_has_a_report_too(images: Path, tmp_path: Path) -> None:
    config = load_config(overrides={**TINY, **STEPS, "data": str(images)})
    assert not train(config, tmp_path, False, StopAtThree())
    assert "step 4" in (tmp_path / "report.html").read_text()


def monitor_of(run: Path, images: Path, folder: Path, step: int) -> tuple[Monitor, Any]:
    config = load_config(overrides={**TINY, "data": str(images)})
    encoder = Encoder("vit_test")
    encoder.vit.load_state_dict(teacher_weights(load_checkpoint(run)))  # type: ignore[arg-type]
    folder.mkdir()
    monitor = Monitor(folder, config, list_images(str(images)), encoder.eval(), RunLogger(folder, 0))
    monitor.start(step)
    return monitor, encoder


def picture(monitor: Monitor, step: int) -> np.ndarray:
    return np.asarray(Image.open(monitor.folder / f"step_{step:08d}.png"), np.float64)


def test_equal_features_in_another_basis_keep_their_colors(run: Path, images: Path, tmp_path: Path) -> None:
    """A rotation of all features changes signs and order of principal components, but not what they show."""
    monitor, encoder = monitor_of(run, images, tmp_path / "a", 0)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]

    class Rotated(Encoder):
        def forward(self, pixels: torch.Tensor, final_norm: bool = True) -> Any:
            features = super().forward(pixels, final_norm)
            rotated = torch.einsum("bdhw,de->behw", features.feature_map, rotation)
            return features._replace(feature_map=rotated)

    encoder.__class__ = Rotated
    monitor.record(5)
    assert np.abs(picture(monitor, 5) - picture(monitor, 0)).mean() < 4


def test_a_resumed_monitor_drops_later_steps_and_goes_on_from_the_last_colors(
    run: Path, images: Path, tmp_path: Path
) -> None:
    monitor, _ = monitor_of(run, images, tmp_path / "a", 0)
    for step in (3, 6):
        monitor.record(step)
    before = picture(monitor, 3)
    monitor.start(3)
    assert sorted(path.name for path in monitor.folder.glob("step_*")) == ["step_00000000.png", "step_00000003.png"]
    monitor.record(3)
    assert np.array_equal(picture(monitor, 3), before)


def test_fixed_images_are_the_same_at_every_start_and_skip_unreadable_ones(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "images")
    listed = list_images(str(folder))
    names, pixels = load_fixed_images(listed, 32, ImageReader(), Preprocessing())
    again, same = load_fixed_images(listed, 32, ImageReader(), Preprocessing())
    assert names == again
    assert torch.equal(pixels, same)
    (folder / names[0]).write_bytes(b"")
    fewer, _ = load_fixed_images(listed, 32, ImageReader(), Preprocessing())
    assert len(fewer) == 8
    assert names[0] not in fewer


def test_a_large_labeled_set_is_represented_by_a_part(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, pixels = Encoder("vit_test"), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(probe_module, "max_images", lambda *_: 8)
    probe = open_probe(labeled, tmp_path / "chosen.json", 32, encoder, pixels)
    assert np.bincount(probe.labels).tolist() == [4, 4]
    assert np.bincount(probe.labels[probe.validation]).tolist() == [2, 2]
    monkeypatch.setattr(probe_module, "max_images", lambda *_: 16)  # a resumed run keeps the choice
    assert torch.equal(open_probe(labeled, tmp_path / "chosen.json", 32, encoder, pixels).pixels, probe.pixels)


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 300), (1.0, 160), (60.0, 40)])
def test_the_part_is_what_the_time_allows(seconds: float, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, seconds])
    monkeypatch.setattr(probe_module.time, "perf_counter", lambda: next(clock))
    pixels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    assert probe_module.max_images(Encoder("vit_test"), pixels) == count


def test_a_folder_that_is_no_probe_is_refused_before_training(gtsa_here, images: Path, tmp_path: Path) -> None:
    for probe in (images, tmp_path / "none"):
        done = gtsa_here("train", images, "--out", tmp_path / "run", "--probe", probe, *sets({**TINY, **STEPS}))
        assert done.returncode == 2
        assert str(probe) in done.stderr
    assert not (tmp_path / "run").exists()
