"""Speed comparison in worker processes, and the `gtsa bench` command."""

import io
import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from helpers import processes
from helpers.signals import ctrl_c_raises
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from gtsa_kit.cli.bench import bench, distinct_names, parse_batches, parse_sides
from gtsa_kit.cli.support.bench_results import speed_table
from gtsa_kit.export.benchmark import workers
from gtsa_kit.export.benchmark.compare import BatchShape, Speed, compare_speed
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.weights import save_encoder


@dataclass(frozen=True)
class Fake:
    """Opener and runner in one: every 16th pixel is the feature map; a call takes `milliseconds`."""

    name: str
    log: Path
    milliseconds: float = 20.0
    max_batch: int = 8
    provider: str = "fake"

    def __call__(self, images: np.ndarray | None = None) -> object:
        if images is None:
            return self.opened()
        if len(images) > self.max_batch:
            raise ValueError(f"batch must be 1 to {self.max_batch}")
        with open(self.log, "a") as file:
            file.write(f"{self.name} {len(images)}\n")
        time.sleep(self.milliseconds / 1e3)
        feature_map = self.encode(images)
        return Features(feature_map.mean((2, 3)), feature_map)

    def opened(self) -> "Fake":
        return self

    def prepare(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(image.resize(size[::-1]), np.float32).transpose(2, 0, 1)

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images[:, :, ::16, ::16]


class Wrong(Fake):
    def encode(self, images: np.ndarray) -> np.ndarray:
        return images[:, ::-1, ::16, ::16]


class Dies(Fake):
    def encode(self, images: np.ndarray) -> np.ndarray:
        os._exit(3)


class Breaks(Fake):
    def opened(self) -> Fake:
        raise OSError("no such engine")


class Rejects(Fake):
    def opened(self) -> Fake:
        raise ValueError("written for another machine; export it here")


@pytest.fixture
def few(images: Path) -> ParityImages:
    return load_parity_images(images)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls.txt"


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork workers, which start at once: fakes need no torch. The test of the command starts real workers."""
    monkeypatch.setattr(workers, "START_METHOD", "fork")


def test_artifacts_are_measured_alternately_and_compared(
    few: ParityImages, log: Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TIME_SLICE", 0.1)
    openers = {
        "fast": Fake("fast", log),
        "slow": Fake("slow", log, milliseconds=60),
        "wrong": Wrong("wrong", log, max_batch=1),
    }
    skipped, progress = [], []
    rows = compare_speed(
        openers,
        [BatchShape(1, 32, 48), BatchShape(4, 32, 48)],
        few,
        seconds=0.4,
        on_skip=lambda *entry: skipped.append(entry),
        on_progress=progress.append,
    )
    assert multiprocessing.active_children() == []
    assert [(row.name, row.shape.batch) for row in rows] == [
        *(("fast", 1), ("slow", 1), ("wrong", 1)),
        *(("fast", 4), ("slow", 4)),
    ]
    fast, slow, wrong, fast_4, _ = rows
    # 3 on an idle machine; on a busy one a call takes longer than its sleep
    assert 1.5 < fast.images_per_second / slow.images_per_second < 4
    assert fast.images_per_second == pytest.approx(1e3 / fast.p50)
    assert fast_4.images_per_second == pytest.approx(4e3 / fast_4.p50)
    assert slow.p50 <= slow.p95 <= slow.p99
    assert slow.calls * slow.p50 > 260  # of 400 ms; the median of few calls lies beside their mean
    assert fast.min_cosine is None  # it is the reference
    assert (slow.min_cosine, slow.max_abs) == (pytest.approx(1), 0)
    assert wrong.min_cosine < 0.999
    assert wrong.max_abs > 1
    assert skipped == [("wrong", BatchShape(4, 32, 48), "batch must be 1 to 1")]
    assert progress == sorted(progress)
    assert progress[-1] == 1

    slices = [name for name, _ in groupby(line for line in log.read_text().splitlines() if line.endswith(" 1"))]
    assert slices[:9] == ["fast 1", "slow 1", "wrong 1"] * 3  # the first calls, then two time slices of each


def test_an_interrupt_while_workers_start_is_not_lost(log: Path, forked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    start = workers.WorkerProcess.__init__

    def start_and_interrupt(worker: workers.WorkerProcess, *args: object) -> None:
        start(worker, *args)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(workers.WorkerProcess, "__init__", start_and_interrupt)
    with (
        ctrl_c_raises(),
        pytest.raises(KeyboardInterrupt),
        workers.start_workers({"only": Fake("only", log)}) as (worker,),
    ):
        worker.call("open")
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        (Dies, RuntimeError, r"bad: its process died \(exit code 3\)"),
        (Breaks, RuntimeError, "bad: no such engine"),
        (Rejects, ValueError, "bad: written for another machine; export it here"),
    ],
)
def test_errors_begin_with_the_name_of_the_artifact(
    kind: type[Fake], error: type[Exception], text: str, few: ParityImages, log: Path, forked: None
) -> None:
    with pytest.raises(error, match=text):
        compare_speed({"good": Fake("good", log), "bad": kind("bad", log)}, [BatchShape(1, 32, 32)], few, 0.1)
    assert multiprocessing.active_children() == []


def test_an_interrupt_leaves_no_process_behind(few: ParityImages, log: Path, forked: None) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_speed({"one": Fake("one", log)}, [BatchShape(1, 32, 32)], few, 60, on_progress=interrupt)
    assert multiprocessing.active_children() == []


def test_slow_artifacts_are_measured_with_the_minimum_of_calls(
    few: ParityImages, log: Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TIME_SLICE", 0.05)
    row = compare_speed({"long": Fake("long", log, milliseconds=60)}, [BatchShape(2, 32, 32)], few, 0.02)[0]
    assert row.calls == 5
    assert 60 <= row.p50 < 1000


def test_the_command_measures_a_run_an_onnx_file_and_weights_of_another_tool(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "START_METHOD", processes.START_METHOD)
    torch.manual_seed(0)
    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    options = ExportOptions(batch=Range(1, 1), height=Range(64, 64), width=Range(96, 96))
    one = tmp_path / "one.onnx"
    export_artifact(open_source(tmp_path), "onnx", one, options, load_parity_images(images))
    app = typer.Typer()
    app.command()(bench)
    theirs = tmp_path / "theirs.pth"
    torch.save(open_source(tmp_path).encoder.vit.state_dict(), theirs)
    args = [
        tmp_path,
        one,
        theirs,
        "--mean",
        "0.1,0.1,0.1",
        "--batch",
        "1,2",
        "--size",
        "64x96",
        "--seconds",
        "0.1",
        "--images",
        images,
        "--json",
    ]
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["reference"] == str(tmp_path)
    assert [(s["name"], s["shape"]["batch"], s["gate"]) for s in report["speeds"]] == [
        (tmp_path.name, 1, "none"),
        ("one.onnx", 1, "passed"),
        (theirs.name, 1, "none"),
        (tmp_path.name, 2, "none"),
        (theirs.name, 2, "none"),
    ]
    ours, onnx, other = report["speeds"][:3]
    assert other["min_cosine"] < 0.9999 < ours["min_cosine"]  # its colors are normalized by another mean
    assert (
        "theirs.pth: the only encoder; embedding: the class token, as timm's own call; assumed: 2 heads" in done.stderr
    )
    assert min(ours["min_cosine"], onnx["min_cosine"]) > 0.999999
    assert ours["ratio"] == 1
    assert onnx["ratio"] == pytest.approx(onnx["images_per_second"] / ours["images_per_second"])
    assert onnx["provider"].startswith("ONNX Runtime")
    assert onnx["load_seconds"] > 0
    assert [(r["name"], r["shape"]["batch"]) for r in report["skipped"]] == [("one.onnx", 2)]
    assert "one.onnx does not accept 2 x 64 x 96: batch is fixed at 1" in done.stderr


def test_the_table_leaves_unknown_values_blank() -> None:
    shape = BatchShape(2, 32, 48)
    full = Speed("full", "fake", shape, 100.0, 20.0, 21.0, 22.0, 9, 0.5, 0.6, 34.4, 0.9876543, 0.1)
    blank = replace(full, name="blank", images_per_second=50.0, memory_mb=None, min_cosine=None, max_abs=None)
    gates = {"full": "passed", "blank": "none"}
    console = Console(width=120, file=io.StringIO())
    console.print(speed_table([full, blank], gates, "full"), speed_table([blank], gates, "full"))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[0][:5] == ["2", "x", "32", "x", "48,"]
    assert lines[2] == ["full", "100.0", "1.00", "20.0", "21.0", "22.0", "0.50", "34", "0.987654", "passed"]
    assert lines[3] == ["blank", "50.0", "0.50", "20.0", "21.0", "22.0", "0.50", "none"]
    assert lines[6] == ["blank", "50.0", "20.0", "21.0", "22.0", "0.50", "none"]  # the first has no such shape


def test_options_are_parsed_and_checked() -> None:
    assert parse_batches("1, 8,32") == [1, 8, 32]
    assert parse_sides("224,480x640,224") == [(224, 224), (480, 640)]
    for wrong in ("0", "", "1,x", "-1"):
        with pytest.raises(ValueError, match="--batch takes numbers"):
            parse_batches(wrong)
    with pytest.raises(ValueError, match=r"--size takes sizes of at least 1 pixel, got 0 x 224"):
        parse_sides("0x224")
    with pytest.raises(ValueError, match="--size takes N or HEIGHTxWIDTH"):
        parse_sides("big")


def test_equal_file_names_are_distinguished() -> None:
    files = [Path(name) for name in ("a/encoder.onnx", "b/encoder.onnx", "encoder.ts", "a/encoder.onnx")]
    assert distinct_names(files) == ["a/encoder.onnx", "b/encoder.onnx", "encoder.ts", "a/encoder.onnx (2)"]
