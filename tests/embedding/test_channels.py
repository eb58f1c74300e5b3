"""Embedding of images of other channels than 8-bit RGB: frames of stacks, orientation, hints about other images."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.channel_models import bands, dicom, npy, save_channel_encoder, tiff
from helpers.image_samples import encoded, png_by_hand, scene

import gtsa_kit
from gtsa_kit.data.channels.frames import FrameFiles, each_frame, split_frame
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.embedding.dataset import read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
FRAMES = 11
NAMES = [*(f"a.tif#{number}" for number in range(1, FRAMES + 1)), "one.tif", "z.npy"]


def stack(count: int) -> np.ndarray:
    """Return slices (Z, C, Y, X)."""
    return np.stack([np.moveaxis(bands(seed, 2), -1, 0) for seed in range(count)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_channel_encoder(tmp_path_factory.mktemp("model"), 2)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacks") / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", stack(FRAMES), imagej=True, metadata={"axes": "ZCYX"})
    (folder / "one.tif").write_bytes(tiff(bands(20, 2)))
    (folder / "z.npy").write_bytes(npy(bands(21, 2)))
    (folder / "damaged.tif").write_bytes(tiff(bands(22, 2))[:50])
    return folder


def test_every_frame_is_a_row_with_its_number_and_its_own_vector(model: Path, stacks: Path, tmp_path: Path) -> None:
    runner = gtsa_kit.load(model, "cpu")
    embed_folder(stacks, model, tmp_path / "out", EmbedOptions(size=(48, 64), frames="all"))
    rows = {row.path: row for row in read_dataset(tmp_path / "out")}
    assert list(rows) == NAMES
    assert [row["path"] for row in read_dataset(tmp_path / "out").errors()] == ["damaged.tif"]
    for frame in range(FRAMES):
        expected = runner(runner.prepare(bands(frame, 2), (48, 64))[None]).embedding[0]
        np.testing.assert_allclose(rows[f"a.tif#{frame + 1}"].embedding, expected, atol=2e-5)
    first = {row.path: row.features.embedding for row in gtsa_kit.embed(stacks / "a.tif", runner, size=(48, 64))}
    np.testing.assert_allclose(first["a.tif"], rows["a.tif#1"].embedding, atol=2e-5)
    table = open_vectors(tmp_path / "out")
    images = SourceImages.of(table, "2")
    for frame in (0, 4, 10):
        displayed = np.asarray(images.open(table.find(f"a.tif#{frame + 1}")))
        values = bands(frame, 2)[..., 1]
        order = np.argsort(values, axis=None, kind="stable")
        assert (np.diff(displayed[..., 0].ravel()[order].astype(int)) >= 0).all(), "the picture is that frame"
    assert images.states(table.rows()) == ["same"] * len(NAMES)


def test_a_job_of_frames_is_resumed_also_where_the_images_moved(model: Path, stacks: Path, tmp_path: Path) -> None:
    whole, out, moved = tmp_path / "whole", tmp_path / "out", tmp_path / "moved"
    options: dict[str, Any] = {"size": (32, 32), "frames": "all", "rows_per_shard": 4}
    shutil.copytree(stacks, tmp_path / "images")
    embed_folder(tmp_path / "images", model, whole, EmbedOptions(**options))

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.done == 6:
            raise Stop

    with pytest.raises(Stop):
        embed_folder(tmp_path / "images", model, out, EmbedOptions(**options), stop)
    with pytest.raises(ValueError, match='frames: "all" before, "first" now'):
        embed_folder(tmp_path / "images", model, out, EmbedOptions(**{**options, "frames": "first"}, resume=True))
    shutil.move(tmp_path / "images", moved)
    summary = embed_folder(moved, model, out, EmbedOptions(**options, resume=True))
    assert (summary.rows, summary.errors, summary.processed) == (len(NAMES), 1, len(NAMES) + 1 - 4)
    for one, other in zip(read_dataset(whole), read_dataset(out), strict=True):
        assert (one.path, one.sha256) == (other.path, other.sha256)
        np.testing.assert_array_equal(one.embedding, other.embedding)


def test_frames_are_named_and_a_file_is_read_once(stacks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_frame("a/b.tif#12") == ("a/b.tif", 11)
    for name in ("a#1", "a.tif#0", "a.tif#", "#recycle/a.tif", "a.tif"):
        assert split_frame(name) == (name, 0)
    source = open_source(str(stacks))
    entries = list(each_frame(source, (entry for entry in source.entries() if entry.name == "a.tif")))
    assert [entry.name for entry in entries] == NAMES[:FRAMES]
    reads: list[str] = []
    original = type(source).read

    def counted(self: Any, locator: str) -> bytes:
        reads.append(locator)
        return original(self, locator)

    monkeypatch.setattr(type(source), "read", counted)
    read = FrameFiles()
    digests = {read(source, entry)[1] for entry in entries}
    assert (len(digests), len(reads)) == (1, 1)
    read(source, Entry("a.tif", entries[0].locator))
    assert len(reads) == 2


def test_frames_of_dicom_and_of_an_archive(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    import zipfile

    slices = np.stack([bands(seed, 1)[..., 0] for seed in range(3)])
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.writestr("scan.dcm", dicom(slices))
    runner = gtsa_kit.load(save_channel_encoder(tmp_path / "model", 1, "float32"), "cpu")
    rows = {row.path: row for row in gtsa_kit.embed(tmp_path / "scans.zip", runner, size=(32, 32), frames="all")}
    assert list(rows) == ["scan.dcm#1", "scan.dcm#2", "scan.dcm#3"]
    for frame, row in enumerate(rows.values()):
        expected = runner(runner.prepare(bands(frame, 1).astype(np.float32), (32, 32))[None]).embedding[0]
        np.testing.assert_allclose(row.features.embedding, expected, atol=2e-5)


def test_models_of_rgb_read_no_frames(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--frames all needs a model of other channels than 8-bit RGB"):
        embed_folder(images, tiny_run, tmp_path / "out", EmbedOptions(frames="all"))


def test_maps_point_to_pixels_of_the_stored_image(model: Path, tmp_path: Path) -> None:
    stored = tiff(np.rot90(bands(0, 2)), extratags=[(274, "H", 1, 6, True)])
    (tmp_path / "a.tif").write_bytes(stored)
    (row,) = gtsa_kit.embed(tmp_path / "a.tif", model, size=(64, 64), device="cpu")
    height, width = bands(0, 2).shape[:2]
    assert (row.width, row.height) == (width, height)
    assert np.allclose(row.transform @ [0, 0, 1], [0, width])  # the upper left corner lies at the lower left
    assert np.allclose(row.transform @ [4, 4, 1], [height, 0])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(scene(64, 64), "PNG"))
    (folder / "b.png").write_bytes(png_by_hand(scene(64, 64).astype(np.uint16) * 257))
    for name in ("c.tif", "d.tif"):
        (folder / name).write_bytes(tiff(bands(0, 13)))
    return folder


def test_embedding_says_once_that_other_channels_need_another_model(
    mixed: Path, tiny_run: Path, tmp_path: Path, gtsa_here: Callable[..., Any]
) -> None:
    done = gtsa_here("embed", mixed, "--model", tiny_run, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        "3 of 4 images that were looked at have more than 8 bits or 4 channels, and 8-bit RGB keeps a part"
        in done.stderr
    )
    assert (
        done.stderr.count("2 images have other channels than the model takes, most of them 13 channels of uint16;") == 1
    )
    reasons = {row["path"]: row["reason"] for row in read_dataset(tmp_path / "out").errors()}
    assert reasons == dict.fromkeys(["c.tif", "d.tif"], "13 channels of uint16, where the model takes 8-bit RGB")
    (mixed / "a.png").unlink()
    (mixed / "b.png").unlink()
    small = gtsa_here("embed", mixed, "--model", save_channel_encoder(tmp_path / "model", 13), "--out", tmp_path / "o",
                      "--max-megapixels", 0.001)  # fmt: skip
    assert small.returncode == 1
    assert "2 images have more pixels or bytes than --max-megapixels allows; embed into another folder" in small.stderr


def test_training_says_once_that_channels_reads_other_channels(mixed: Path, tmp_path: Path) -> None:
    from helpers.commands import TINY

    from gtsa_kit.training.trainer import RunFailedError, TrainerCallback

    notices: list[str] = []
    callback = TrainerCallback()
    callback.on_notice = notices.append  # type: ignore[method-assign]
    settings = {**TINY, "train.steps": 1, "train.max_unreadable": 0.9}
    out = gtsa_kit.pretrain(mixed, tmp_path / "run", settings=settings, callback=callback)
    assert (
        "2 images have other channels than 8-bit RGB, such as 13 channels of uint16; --channels auto reads them"
        in notices
    )
    assert any(
        note.startswith("3 of 4 images that were looked at have more than 8 bits or 4 channels") for note in notices
    )
    assert '"13 channels of uint16, which are no 8-bit RGB"' in (out / "errors.jsonl").read_text()
    for name in ("a.png", "b.png"):
        (mixed / name).unlink()
    with pytest.raises(RunFailedError, match=r"none of the 2 images is readable; see .*; 2 images have other channels"):
        gtsa_kit.pretrain(mixed, tmp_path / "none", settings=settings)


def test_8_bit_images_give_no_note(images: Path) -> None:
    from gtsa_kit.cli.support.job_hints import reduced_note

    assert reduced_note(str(images)) == ""
    assert reduced_note("s3://bucket/images") == reduced_note("nowhere/at/all") == ""
