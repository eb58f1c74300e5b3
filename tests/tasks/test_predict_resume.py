"""Predictions that are killed, run out of space or are interrupted, and then equal those of an uninterrupted job."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.folder_digests import folder_digests
from helpers.inline_ray import inline_ray
from helpers.killed_jobs import run_with_kills
from helpers.task_models import save_random_task, task_spec

from gtsa_kit.embedding import ray_engine
from gtsa_kit.embedding.progress import JobProgress
from gtsa_kit.tasks import predict_images, predict_job
from gtsa_kit.tasks.predict_job import predict_folder
from gtsa_kit.tasks.predict_plan import PredictOptions

MODES = {
    "whole": {"short_side": 32, "overlay": True, "rle": True},
    "tiled": {"tile": 48, "rle": True},
    "detections": {"short_side": 32, "overlay": True, "threshold": 0.2},
}

SETUP = """
from gtsa_kit.tasks import predict_images, predict_job
from gtsa_kit.tasks.predict_plan import PredictOptions
predict_images.CHUNK = predict_job.CHUNK = 4
"""
CALL = "predict_job.predict_folder(*arguments[:3], PredictOptions(**eval(arguments[3]), resume=True))"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_random_task(folder, task_spec("linear"))
    return folder


@pytest.fixture(scope="module")
def ten(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in two folders, of which one can't be read."""
    folder = tmp_path_factory.mktemp("ten")
    (folder / "sub").mkdir()
    for i in range(9):
        shutil.copy(images / f"p{i}.jpg", folder / ("sub" * (i % 2)) / f"p{i}.jpg")
    (folder / "p9.jpg").write_bytes(b"none")
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_images, "CHUNK", 4)
    monkeypatch.setattr(predict_job, "CHUNK", 4)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    save_random_task(folder, task_spec("mask-rcnn"))
    return folder


@pytest.mark.parametrize("mode", ["whole", "detections"])
def test_a_job_killed_at_random_times_gives_the_same_files(
    mode: str, model: Path, detector: Path, ten: Path, tmp_path: Path
) -> None:
    model = detector if mode == "detections" else model
    options = {"batch_size": 3, "workers": 2, **MODES[mode]}
    predict_folder(model, ten, tmp_path / "whole", PredictOptions(**options))
    seed = random.randrange(10**6)
    run_with_kills(tmp_path, SETUP, CALL, [model, ten, tmp_path / "out", repr(options)], seed, kills=2, max_delay=0.4)
    assert folder_digests(tmp_path / "out") == folder_digests(tmp_path / "whole"), f"seed {seed}"


@pytest.mark.parametrize("mode", MODES)
def test_a_job_cut_at_any_step_of_a_commit_gives_the_same_files(
    mode: str, model: Path, detector: Path, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = detector if mode == "detections" else model
    options = {"batch_size": 3, "workers": 1, **MODES[mode]}
    predict_folder(model, ten, tmp_path / "whole", PredictOptions(**options))
    expected, failures = folder_digests(tmp_path / "whole"), 0
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        for step in (0, 3, 17, 26):
            remaining = [step]

            def fail_later(*args: object, original=original, remaining=remaining) -> object:
                remaining[0] -= 1
                if remaining[0] < 0:
                    raise OSError(28, "No space left on device")
                return original(*args)

            out = tmp_path / f"{name}{step}"
            monkeypatch.setattr(os, name, fail_later)
            try:
                predict_folder(model, ten, out, PredictOptions(**options))
            except OSError:
                failures += 1
            monkeypatch.setattr(os, name, original)
            predict_folder(model, ten, out, PredictOptions(**options, resume=True))
            assert folder_digests(out) == expected
    assert failures >= 6


def test_ctrl_c_keeps_what_is_committed(model: Path, ten: Path, tmp_path: Path) -> None:
    def interrupt(progress: JobProgress) -> None:
        if progress.done == 7:
            raise KeyboardInterrupt

    out, options = tmp_path / "out", PredictOptions(size=(32, 32))
    with pytest.raises(KeyboardInterrupt):
        predict_folder(model, ten, out, options, interrupt)
    seen: list[JobProgress] = []
    summary = predict_folder(model, ten, out, PredictOptions(size=(32, 32), resume=True), seen.append)
    assert (seen[0].done, summary.rows, summary.processed) == (4, 9, 6)


def test_a_second_process_may_not_write_into_the_folder(model: Path, ten: Path, tmp_path: Path) -> None:
    from gtsa_kit.folder_lock import folder_lock

    out = tmp_path / "out"
    out.mkdir()
    with folder_lock(out), pytest.raises(ValueError, match="another process is writing into"):
        predict_folder(model, ten, out, PredictOptions(size=(32, 32)))


def stop_after(count: int) -> Callable[[JobProgress], None]:
    def stop(progress: JobProgress) -> None:
        if progress.done == count:
            raise OSError("the disk is gone")

    return stop


def test_ray_continues_a_job_with_the_same_files(
    model: Path, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work of an actor, on a pickled task; tests/embedding/test_ray_engine.py runs actors of a cluster."""
    monkeypatch.setattr(ray_engine, "import_ray", inline_ray)
    options = PredictOptions(batch_size=3, workers=1, **MODES["whole"])
    predict_folder(model, ten, tmp_path / "whole", options)
    with pytest.raises(OSError, match="the disk is gone"):
        predict_folder(model, ten, tmp_path / "out", options, stop_after(6))
    rest = predict_folder(model, ten, tmp_path / "out", replace(options, engine="ray", resume=True))
    assert (rest.rows, rest.errors, rest.processed) == (9, 1, 6)
    assert folder_digests(tmp_path / "out") == folder_digests(tmp_path / "whole")


def test_images_that_moved_are_found_at_their_new_place(model: Path, ten: Path, tmp_path: Path) -> None:
    options = PredictOptions(batch_size=3, workers=1, **MODES["whole"])
    shutil.copytree(ten, tmp_path / "in")
    predict_folder(model, tmp_path / "in", tmp_path / "whole", options)
    with pytest.raises(OSError, match="the disk is gone"):
        predict_folder(model, tmp_path / "in", tmp_path / "out", options, stop_after(6))
    shutil.copytree(ten, tmp_path / "new", copy_function=shutil.copyfile)  # other times
    shutil.rmtree(tmp_path / "in")
    resumed = replace(options, resume=True)
    with pytest.raises(ValueError, match=r"does not exist; .*their new place: gtsa predict .* NEW_PLACE --resume"):
        predict_folder(model, tmp_path / "in", tmp_path / "out", resumed)
    content = (tmp_path / "new" / "p0.jpg").read_bytes()
    (tmp_path / "new" / "p0.jpg").write_bytes(content[:-20] + b"x" + content[-19:])
    with pytest.raises(ValueError, match=r"new does not hold the images of .*: 1 of 4 looked at changed \(first p0"):
        predict_folder(model, tmp_path / "new", tmp_path / "out", resumed)
    (tmp_path / "new" / "p0.jpg").write_bytes(content)
    assert predict_folder(model, tmp_path / "new", tmp_path / "out", resumed).processed == 6
    whole, out = folder_digests(tmp_path / "whole"), folder_digests(tmp_path / "out")
    assert whole.pop("job.json") != out.pop("job.json")
    assert out == whole
