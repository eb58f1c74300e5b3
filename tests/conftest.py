import gc
import os

# Before anything imports torch: small tensors are slower on two threads than on one, and each core has its worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import numpy as np
import pytest
from filelock import FileLock
from helpers.commands import GTSA, TINY, one_thread
from helpers.paths import SCENES
from helpers.weights import save_random
from PIL import Image

from gtsa_kit.cycles import no_cycle_search

if TYPE_CHECKING:  # loaded by the tests that need them; those of files and settings start at once
    from gtsa_kit.export.formats.quantize import Calibration
    from gtsa_kit.export.parity_images import ParityImages

pytest_plugins = ["helpers.parity_table"]

Once = Callable[[str, Callable[[Path], object]], Path]
Made = Callable[..., Path]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the tests import out of the search for reference cycles: a quarter of the imports' time went there."""
    with no_cycle_search():
        result = yield
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)  # by default a twentieth of the tests' time goes there
        return result


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Do not wait for the disk, thousands of times: no test loses power. Tests of what is synced look at the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def translations() -> Iterator[None]:
    """Read the translations of torch's exporter once, in a run that has collected tests of it; load nothing else."""
    if "helpers.traces" not in sys.modules:
        yield
        return
    from helpers.traces import translations_read_once

    with translations_read_once():
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that gives a folder by name.

    The first test that requests a name fills the folder, in whichever worker; other tests wait and share it read-only.
    """
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def get(name: str, fill: Callable[[Path], object]) -> Path:
        folder, work = root / f"shared-{name}", own / f"filling-{name}"
        with FileLock(root / f"shared-{name}.lock"):
            if not folder.exists():
                shutil.rmtree(work, ignore_errors=True)  # of an attempt that failed
                work.mkdir()
                fill(work)
                work.rename(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty smooth color fields of several shapes, as JPEG."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(20):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = (96 + 8 * (index % 3), 80 + 8 * (index % 4))
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"p{index}.jpg", quality=92)
    return folder


@pytest.fixture
def tiny() -> dict[str, object]:
    return dict(TINY)


@pytest.fixture
def gtsa() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own."""

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [*GTSA, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=800, env=one_thread(), **kwargs)

    return run


@pytest.fixture
def gtsa_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in this process, where torch is loaded already: for commands that end before any work."""
    from gtsa_kit.cli import main

    monkeypatch.setattr(gc, "freeze", lambda: None)  # other tests' objects would live on

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        code: object = 0
        monkeypatch.setattr(sys, "argv", ["gtsa", *map(str, args)])
        capfd.readouterr()
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(["gtsa", *map(str, args)], int(code or 0), out, err)

    monkeypatch.setenv("COLUMNS", "200")
    return run


@pytest.fixture
def no_run_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw neither curves nor predictions of the runs of this process, half a second each."""
    from gtsa_kit.tasks import result
    from gtsa_kit.training.run_logger import RunLogger

    monkeypatch.setattr(RunLogger, "draw_curves", lambda _: None)
    monkeypatch.setattr(result, "save_predictions", lambda *_: None)


# --- artifacts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_run(once: Once) -> Path:
    return once("tiny", lambda folder: save_random(folder, "vit_test"))


@pytest.fixture(scope="session")
def small_run(once: Once) -> Path:
    return once("small", lambda folder: save_random(folder, "vit_small"))


@pytest.fixture(scope="session")
def task_run(once: Once) -> Callable[[str], Path]:
    """Runs of fine-tuned models with random weights, by kind of head; see `helpers.task_models`."""

    def make(kind: str) -> Path:
        from helpers.task_models import save_random_task, task_spec

        return once(f"task {kind}", lambda folder: save_random_task(folder, task_spec(kind)))

    return make


@pytest.fixture(scope="session")
def scenes(images: Path) -> "ParityImages":
    from gtsa_kit.export.parity_images import load_parity_images

    return load_parity_images(SCENES if SCENES.exists() else images)


@pytest.fixture(scope="session")
def few(once: Once, images: Path) -> Path:
    """A folder of three images, for parity gates that are not themselves under test."""

    def fill(folder: Path) -> None:
        for path in sorted(SCENES.glob("*.jpg") if SCENES.exists() else images.iterdir())[:3]:
            shutil.copy(path, folder)

    return once("few", fill)


@pytest.fixture(scope="session")
def tiny_onnx(made: Made) -> Path:
    """A float32 graph of any batch and size."""
    return made("onnx")


@pytest.fixture(scope="session")
def calibration(images: Path) -> "Calibration":
    from gtsa_kit.export.pipeline import read_calibration

    return read_calibration(SCENES if SCENES.exists() else images)


@pytest.fixture(scope="session")
def made(once: Once, tiny_run: Path, scenes: "ParityImages", calibration: "Calibration") -> Made:
    """Artifacts of the tiny encoder or another run, by format and options, each made once: a trace takes seconds."""
    from helpers.cores import two_cores
    from helpers.traces import shared_traces

    from gtsa_kit.export.manifest import read_manifest
    from gtsa_kit.export.pipeline import export_artifact
    from gtsa_kit.export.source import open_source
    from gtsa_kit.export.spec import SUFFIX, ExportOptions

    def make(format_name: str, run: Path = tiny_run, **choices: object) -> Path:
        if format_name == "openvino":
            pytest.importorskip("openvino")
        source = open_source(run)
        options, name = ExportOptions(**choices), f"{source.stem}{SUFFIX[format_name]}"

        def fill(folder: Path) -> None:
            with two_cores(), shared_traces(once):
                manifest = export_artifact(source, format_name, folder / name, options, scenes, calibration)
            assert manifest.parity == read_manifest(folder / name).parity

        return once(f"{format_name}-{sha256(repr((run.name, options)).encode()).hexdigest()[:12]}", fill) / name

    return make


@pytest.fixture
def small_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core, and no process that is not needed: each imports Ray, and those of a full machine are given up.

    Left out are the dashboard, the autoscaler, which a cluster of one machine has no use for, the monitor of logs, and
    the statistics of Ray Data: without their actor a data set takes a random id.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    monkeypatch.setattr(ray, "init", partial(ray.init, num_cpus=1, object_store_memory=100_000_000))
    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        monkeypatch.setattr(ray._private.node.Node, name, lambda *_, **__: None, raising=False)
    monkeypatch.setattr("ray.data._internal.stats.get_or_create_stats_actor", MagicMock(), raising=False)
