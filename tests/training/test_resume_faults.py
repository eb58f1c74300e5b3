"""Resuming after faults: moved and changed images, lost settings, damaged checkpoints, two runs in one folder."""

import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.commands import TINY
from helpers.signals import Gate

from gtsa_kit.config import load_config
from gtsa_kit.data import batches as loading
from gtsa_kit.data.multicrop import MultiCropDataset
from gtsa_kit.data.samples import Batch
from gtsa_kit.export.api import load_encoder
from gtsa_kit.files import read_json_lines, sha256_of
from gtsa_kit.folder_lock import folder_lock
from gtsa_kit.training.pretrain import pretrain
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback

SETTINGS = {**TINY, "train.steps": 6, "train.checkpoint_every": 2}


class StopAfterFour(TrainerCallback):
    """Stops the run after step 4; collects notices."""

    step = 0

    def __init__(self) -> None:
        self.notices: list[str] = []

    def on_notice(self, message: str) -> None:
        self.notices.append(message)

    def on_step_end(self, step: int, metrics: object) -> None:
        self.step = step

    def should_stop(self) -> bool:
        return self.step == 3


class Listen(StopAfterFour):
    def should_stop(self) -> bool:
        return False


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_json_lines(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def stopped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a run that stopped after four of six steps, and a whole run."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(images, folder / "images")
    pretrain(folder / "images", folder / "run", settings=SETTINGS, callback=StopAfterFour())
    pretrain(folder / "images", folder / "whole", settings=SETTINGS)
    return folder


@pytest.fixture
def moved(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that folder at another place, without the old one's images in reach."""
    shutil.copytree(stopped, tmp_path / "moved")
    (stopped / "images").rename(stopped / "hidden")
    yield tmp_path / "moved"
    (stopped / "hidden").rename(stopped / "images")


def resume(moved: Path, images: Path | None = None, **options: object) -> Path:
    return pretrain(images or moved / "images", moved / "run", resume=True, **options)


def test_images_that_moved_are_found_at_their_new_place(moved: Path, stopped: Path) -> None:
    resume(moved)
    assert losses(moved / "run") == losses(moved / "whole")
    assert load_config(file=moved / "run" / "config.yaml").data == str(moved / "images")


def test_images_that_moved_into_an_archive_are_found_there(moved: Path) -> None:
    with zipfile.ZipFile(moved / "images.zip", "w") as archive:
        for path in sorted((moved / "images").iterdir(), reverse=True):
            archive.write(path, path.name)
        archive.writestr("another.jpg", b"ignored")
    resume(moved, moved / "images.zip")
    assert losses(moved / "run") == losses(moved / "whole")


def test_images_that_are_gone_are_asked_for(moved: Path, stopped: Path) -> None:
    config = load_config(file=moved / "run" / "config.yaml")
    with pytest.raises(ValueError, match=r"no longer in .*images.*gtsa train NEW_PLACE --resume --out"):
        train(config, moved / "run", True, TrainerCallback())


def test_other_images_are_refused_by_name(moved: Path) -> None:
    images, before = moved / "images", (moved / "run" / "images.json").read_bytes()
    (images / "p3.jpg").unlink()
    (images / "p4.jpg").write_bytes(b"shorter")
    with pytest.raises(ValueError, match=r"1 missing \(first p3.jpg\) and 1 changed \(first p4.jpg\)"):
        resume(moved)
    assert (moved / "run" / "images.json").read_bytes() == before
    assert load_config(file=moved / "run" / "config.yaml").data != str(images)


def test_an_image_of_the_same_size_and_other_content_is_noticed(moved: Path) -> None:
    content = bytearray((moved / "images" / "p5.jpg").read_bytes())
    content[-20] ^= 1
    (moved / "images" / "p5.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 20 looked at changed \(first p5.jpg\)"):
        resume(moved)


def make_tar(images: Path, path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(images / name, name)


def test_a_rewritten_tar_is_noticed_and_its_members_found_again(images: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in images.iterdir())
    tar, run = tmp_path / "images.tar", tmp_path / "run"
    make_tar(images, tar, names)
    pretrain(tar, tmp_path / "whole", settings=SETTINGS)
    pretrain(tar, run, settings=SETTINGS, callback=StopAfterFour())
    make_tar(images, tar, names[5:])  # members lie elsewhere, and some are gone
    with pytest.raises(ValueError, match=rf"5 missing \(first {names[0]}\)"):
        pretrain(tar, run, resume=True)
    make_tar(images, tar, names[::-1])  # all members, elsewhere
    pretrain(tar, run, resume=True)
    assert losses(run) == losses(tmp_path / "whole")


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_without_its_list_of_images_is_refused(stopped: Path, tmp_path: Path, content: str | None) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    (tmp_path / "run" / "images.json").unlink()
    if content:
        (tmp_path / "run" / "images.json").write_text(content)
    with pytest.raises(ValueError, match=r"images.json is missing or damaged"):
        pretrain(stopped / "images", tmp_path / "run", resume=True)


def test_lost_settings_are_read_from_the_checkpoint(stopped: Path, tmp_path: Path, gtsa_here) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped / "run", run)
    settings = load_config(file=run / "config.yaml")
    (run / "config.yaml").unlink()
    done = gtsa_here("train", "--resume", "--out", run)
    assert done.returncode == 0, done.stderr
    assert "has no config.yaml; its settings are read from step_00000004.ckpt" in done.stderr
    assert losses(run) == losses(stopped / "whole")
    assert load_config(file=run / "config.yaml") == settings


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_a_flipped_byte_in_a_checkpoint_is_noticed_and_the_one_before_is_used(
    stopped: Path, tmp_path: Path, position: float
) -> None:
    run, heard = tmp_path / "run", Listen()
    shutil.copytree(stopped / "run", run)
    newest = run / "checkpoints" / "step_00000004.ckpt"
    content = bytearray(newest.read_bytes())
    content[int(position * len(content))] ^= 1
    newest.write_bytes(content)
    (run / "checkpoints" / "last").unlink()
    os.link(newest, run / "checkpoints" / "last")
    with pytest.raises(ValueError, match=r"step_00000004.ckpt is damaged.*; delete it"):
        load_encoder(run)
    pretrain(stopped / "images", run, resume=True, callback=heard)
    assert re.search(r"step_00000004.ckpt.*damaged; .*step_00000002.ckpt, is used", heard.notices[0])
    assert losses(run) == losses(stopped / "whole")
    lines = (run / "checkpoints" / "SHA256SUMS").read_text().splitlines()
    for name in ("step_00000004.ckpt", "step_00000006.ckpt", "last"):
        assert f"{sha256_of(run / 'checkpoints' / name)}  {name}" in lines


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_by_name(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if path.name != "SHA256SUMS":
            path.write_bytes(b"PK" + path.read_bytes()[2:1000])
    with pytest.raises(ValueError, match=r"step_00000004.ckpt, .*step_00000002.ckpt.*: damaged"):
        pretrain(stopped / "images", tmp_path / "run", resume=True)


def test_a_second_run_into_one_folder_is_refused(images: Path, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with folder_lock(out):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"another process is writing into .*run; wait for it"):
                pretrain(images, out, settings=SETTINGS)
    assert [path.name for path in out.iterdir()] == [".lock"]
    pretrain(images, out, settings={**SETTINGS, "train.steps": 1})


def test_a_stop_while_workers_hang_saves_a_checkpoint(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, getitem = Gate(), MultiCropDataset.__getitem__

    def hang_from_step_four(dataset: MultiCropDataset, t: int) -> Batch:
        if t >= 3 * TINY["train.batch_size"]:
            gate.wait()
        return getitem(dataset, t)

    monkeypatch.setattr(MultiCropDataset, "__getitem__", hang_from_step_four)
    monkeypatch.setattr(loading, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(
        torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.05
    )  # torch ends it at once, not after 5 s
    run, settings = tmp_path / "run", {**SETTINGS, "train.workers": 1, "train.checkpoint_every": 5}
    config = load_config(overrides={**settings, "data": str(stopped / "images")})
    try:
        assert not train(config, run, False, StopAfterFour())  # heard while it waits for step 4
    finally:
        gate.open()
    monkeypatch.undo()
    assert len(losses(run)) == 3
    pretrain(stopped / "images", run, resume=True)
    assert losses(run) == losses(stopped / "whole")


def test_a_worker_without_shared_memory_ends_the_run_with_a_hint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(RunFailedError, match=r"--shm-size=8g.*--workers 0, which needs none"):
        pretrain(images, tmp_path / "run", settings={**SETTINGS, "train.workers": 1})
    assert "--shm-size" in (tmp_path / "run" / "train.log").read_text()
    assert json.loads((tmp_path / "run" / "images.json").read_text())["entries"]
