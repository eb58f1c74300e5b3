"""Training from every source of images gives the weights of training from the folder that they come from."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.commands import sets
from helpers.processes import run_gtsa, start_gtsa

from gtsa_kit.config import load_config
from gtsa_kit.data.image_files import list_images
from gtsa_kit.files import read_json_lines
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback


def as_tar(images: Path, folder: Path) -> str:
    with tarfile.open(folder / "images.tar", "w") as archive:
        for path in sorted(images.iterdir(), reverse=True):
            archive.add(path, path.name)
    return str(folder / "images.tar")


def as_zip(images: Path, folder: Path) -> str:
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(images.iterdir(), reverse=True):
            archive.write(path, path.name)
    return str(folder / "images.zip")


def as_zips(images: Path, folder: Path) -> str:
    paths = [images / f"p{index}.jpg" for index in range(20)]
    for name, part in (("a", paths[:7]), ("b", paths[7:])):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path in part:
                archive.write(path, path.name)
    return str(folder / "*.zip")


def as_parquet(images: Path, folder: Path) -> str:
    paths = [str(path) for path in sorted(images.iterdir(), reverse=True)]
    pq.write_table(pa.table({"path": paths}), folder / "images.parquet")
    return str(folder / "images.parquet")


def as_glob(images: Path, folder: Path) -> str:
    return str(images / "p*.jpg")


def in_memory(images: Path, folder: Path) -> str:
    files = fsspec.filesystem("memory")
    for path in images.iterdir():
        files.pipe_file(f"/{folder.name}/{path.name}", path.read_bytes())
    return f"memory://{folder.name}"


def urls_in_list(images: Path, folder: Path) -> str:
    url = in_memory(images, folder)
    (folder / "urls.txt").write_text("".join(f"{url}/{path.name}\n" for path in images.iterdir()))
    return str(folder / "urls.txt")


SOURCES = [as_tar, as_zip, as_zips, as_parquet, as_glob, in_memory, urls_in_list]


def weights(source: str, out: Path, tiny: dict[str, object], workers: int) -> bytes:
    settings = {**tiny, "data": source, "train.steps": 2, "train.workers": workers}
    assert train(load_config(overrides=settings), out, False, TrainerCallback())
    return (out / "encoder.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folder_weights(images: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from helpers.commands import TINY

    return weights(str(images), tmp_path_factory.mktemp("folder") / "run", dict(TINY), 0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", SOURCES)
def test_every_source_trains_as_the_folder(
    make: Callable[[Path, Path], str],
    workers: int,
    images: Path,
    tiny: dict[str, object],
    tmp_path: Path,
    folder_weights: bytes,
) -> None:
    assert weights(make(images, tmp_path), tmp_path / "run", tiny, workers) == folder_weights


@pytest.mark.parametrize("make", [as_tar, as_zip, as_zips])
def test_sources_work_in_spawned_workers(make: Callable[[Path, Path], str], images: Path, tmp_path: Path) -> None:
    listed = list_images(make(images, tmp_path))
    with torch.multiprocessing.get_context("spawn").Pool(2) as pool:
        content = pool.map(listed.source.read, [entry.locator for entry in listed.entries])
    assert content == [(images / f"p{index}.jpg").read_bytes() for index in range(20)]


def test_a_killed_run_from_a_zip_resumes_bit_for_bit(images: Path, tmp_path: Path, tiny: dict[str, object]) -> None:
    source = as_zip(images, tmp_path)
    settings = {**tiny, "train.steps": 8, "train.checkpoint_every": 2, "train.workers": 2}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_gtsa(tmp_path, "train", source, "--out", whole, *sets(settings))
    assert done.returncode == 0, done.stderr
    process = start_gtsa(tmp_path, "train", source, "--out", killed, *sets(settings))
    process.wait_for(lambda: len(read_json_lines(killed / "metrics.jsonl")) >= 4)
    process.kill()
    done = run_gtsa(tmp_path, "train", "--resume", "--out", killed)
    assert done.returncode == 0, done.stderr
    assert (whole / "encoder.safetensors").read_bytes() == (killed / "encoder.safetensors").read_bytes()
    losses = [[row["loss"] for row in read_json_lines(run / "metrics.jsonl")] for run in (whole, killed)]
    assert losses[0] == losses[1]


def test_unreadable_members_are_listed_by_their_names(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, f"good/{path.name}")
        archive.writestr("bad/empty.jpg", b"")
        archive.writestr("bad/text.jpg", b"hello")
    settings = {**tiny, "data": str(tmp_path / "some.zip"), "train.steps": 1, "train.max_unreadable": 0.5}
    assert train(load_config(overrides=settings), tmp_path / "run", False, TrainerCallback())
    rows = read_json_lines(tmp_path / "run" / "errors.jsonl")
    assert [row["path"] for row in rows] == ["bad/empty.jpg", "bad/text.jpg"]
    assert rows[0]["reason"] == "empty file"


def test_a_run_resumes_without_its_list(images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    class StopAfterTwo(TrainerCallback):
        steps = 0

        def on_step_end(self, step: int, metrics: object) -> None:
            self.steps = step

        def should_stop(self) -> bool:
            return self.steps == 2

    source = Path(as_parquet(images, tmp_path))
    config = load_config(overrides={**tiny, "data": str(source), "train.steps": 4})
    assert not train(config, tmp_path / "run", False, StopAfterTwo())
    source.unlink()
    assert train(config, tmp_path / "run", True, TrainerCallback())


def test_an_archive_without_a_readable_image_is_an_error(tiny: dict[str, object], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("a.jpg", b"hello")
        archive.writestr("b.jpg", b"hello")
    config = load_config(overrides={**tiny, "data": str(tmp_path / "bad.zip"), "train.steps": 1})
    with pytest.raises(RunFailedError, match="none of the 2 images is readable"):
        train(config, tmp_path / "run", False, TrainerCallback())
