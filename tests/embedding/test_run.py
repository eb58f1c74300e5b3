"""Rows and maps of dataset folders against the encoder, run one image at a time."""

import errno
import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.folder_digests import folder_digests
from PIL import Image, ImageOps

from gtsa_kit.data.image_io import open_image
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding import extract, read_dataset
from gtsa_kit.embedding.input_index import write_input_index
from gtsa_kit.embedding.iterate import embed
from gtsa_kit.embedding.merge import merge_parts
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.progress import JobProgress, UnreadableFileError
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.export import Runner
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.feature_grid import grid_to_boxes
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.preprocessing import Preprocessing

NAMES = [f"img{i}.jpg" for i in range(20)]
NAMES = [*NAMES, "rotated.jpg", *(f"sub ü 日本/{i}.jpg" for i in range(3))]
UNREADABLE = ["empty.png", "img2b.jpg", "img11.webp", "sub ü 日本/9.png"]


def run_encoder(encoder: torch.nn.Module, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return embedding and map of one image, computed with Pillow and the encoder alone."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    image = ImageOps.exif_transpose(Image.open(path)).resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = ((np.asarray(image) / 255 - mean) / std).transpose(2, 0, 1)
    with torch.no_grad():
        features = encoder(torch.from_numpy(pixels)[None].float())
    return features.embedding[0].numpy(), features.feature_map[0].numpy()


@pytest.fixture(scope="module")
def encoder(model: Path) -> torch.nn.Module:
    return load_encoder(model)


@pytest.mark.parametrize("sizes", [{}, {"size": (64, 96)}, {"short_side": 80}, {"native": True}])
def test_rows_and_maps_are_the_encoder_run_one_at_a_time(
    mixed: Path, model: Path, tmp_path: Path, encoder: torch.nn.Module, sizes: dict[str, object]
) -> None:
    options = EmbedOptions(dense=True, dtype="float32", batch_size=3, rows_per_shard=7, **sizes)
    summary = embed_folder(mixed, model, tmp_path / "out", options)
    assert (summary.rows, summary.errors, summary.total) == (24, 4, 28)
    dataset = read_dataset(tmp_path / "out")
    assert [row.path for row in dataset] == NAMES  # natural order
    for row in dataset:
        size = tuple(16 * n for n in row.maps["feature_map"].shape[1:])
        with Image.open(mixed / row.path) as image:
            upright = ImageOps.exif_transpose(image)
            stored = image.size
        assert (row.width, row.height) == upright.size
        expected = sizes.get("size", (224, 224))
        if "short_side" in sizes:
            assert min(size) == 80
            assert abs(size[0] / size[1] - row.height / row.width) < 0.15
        elif "native" in sizes:
            assert size == (round(row.height / 16) * 16, round(row.width / 16) * 16)
        else:
            assert size == expected
        embedding, feature_map = run_encoder(encoder, mixed / row.path, size)
        np.testing.assert_allclose(row.embedding, embedding, atol=2e-2)  # a level of 255 in the pixels
        assert embedding @ row.embedding / np.linalg.norm(embedding) / np.linalg.norm(row.embedding) > 0.9999
        np.testing.assert_allclose(row.maps["feature_map"], feature_map, atol=1e-1)
        whole = [0, 0, size[1] // 16, size[0] // 16]
        np.testing.assert_allclose(grid_to_boxes(row.grid_to_pixel, np.array(whole)), [0, 0, *stored], atol=1e-9)
    assert [error["path"] for error in dataset.errors()] == UNREADABLE
    assert all(error["reason"] for error in dataset.errors())


def test_schema_of_the_vectors(mixed: Path, model: Path, tmp_path: Path) -> None:
    embed_folder(mixed, model, tmp_path / "out", EmbedOptions(dtype="float16"))
    schema = pq.read_schema(tmp_path / "out" / "vectors" / "part-00000.parquet")
    assert [(f.name, str(f.type)) for f in schema] == [
        ("path", "string"),
        ("sha256", "string"),
        ("stamp", "string"),
        ("width", "int32"),
        ("height", "int32"),
        ("embedding", "fixed_size_list<element: halffloat>[64]"),
    ]
    assert json.loads(schema.metadata[b"gtsa_kit"])["dim"] == 64


def test_layers_are_arrays_of_their_own(images: Path, model: Path, tmp_path: Path) -> None:
    embed_folder(images, model, tmp_path / "out", EmbedOptions(load=LoadOptions(layers=(0, 1)), rows_per_shard=6))
    row = read_dataset(tmp_path / "out")[19]
    assert set(row.maps) == {"feature_map", "feature_map_0", "feature_map_1"}
    assert np.array_equal(row.maps["feature_map"], row.maps["feature_map_1"])  # the last block, normed
    assert not np.array_equal(row.maps["feature_map"], row.maps["feature_map_0"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        embed_folder(images, model, tmp_path / "other", EmbedOptions(load=LoadOptions(layers=(5,))))


def test_the_class_token_is_a_column_of_its_own(images: Path, model: Path, tmp_path: Path) -> None:
    options = EmbedOptions(load=LoadOptions(class_token=True), rows_per_shard=6, size=(32, 32))
    embed_folder(images, model, tmp_path / "out", options)
    encoder, dataset = load_encoder(model), read_dataset(tmp_path / "out")
    row = dataset[7]
    prepared = torch.from_numpy(Preprocessing()(open_image(images / row.path), (32, 32))[None])
    with torch.no_grad():
        expected = encoder(prepared)
    np.testing.assert_allclose(row.class_token, expected.class_token[0].numpy(), atol=2e-3)
    np.testing.assert_allclose(row.embedding, expected.embedding[0].numpy(), atol=2e-3)
    one = next(embed([images / row.path], model, size=(32, 32), class_token=True, device="cpu"))
    np.testing.assert_allclose(one.features.class_token, row.class_token, atol=2e-3)
    parts = [tmp_path / f"part{i}" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        embed_folder(images, model, part, replace(options, part=(i, 2)))
    merge_parts(tmp_path / "merged", parts)
    assert np.array_equal(read_dataset(tmp_path / "merged")[7].class_token, row.class_token)


def test_only_unreadable_images_give_a_dataset_without_rows(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(50):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(b"")
    summary = embed_folder(
        tmp_path / "in", model, tmp_path / "out", EmbedOptions(batch_size=4, rows_per_shard=8, dense=True)
    )
    assert (summary.rows, summary.errors) == (0, 50)
    assert len(read_dataset(tmp_path / "out")) == 0
    assert len(list(read_dataset(tmp_path / "out").errors())) == 50


def test_a_disk_without_locks_hard_links_and_synced_folders_is_written_to(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="another kind of locks on this system")
    options = EmbedOptions(dense=True)
    embed_folder(images, model, tmp_path / "usual", options)
    sync = os.fsync

    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    def sync_files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            unsupported()
        sync(handle)

    monkeypatch.setattr(os, "fsync", sync_files_only)
    monkeypatch.setattr(os, "link", unsupported)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    embed_folder(images, model, tmp_path / "network", options)
    assert folder_digests(tmp_path / "network") == folder_digests(tmp_path / "usual")


def test_the_index_of_the_inputs_needs_no_locks_of_the_disk(images: Path, tmp_path: Path) -> None:
    index = write_input_index(open_source(str(images)), tmp_path / "index.sqlite")
    with closing(sqlite3.connect(index.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert [entry.name for entry in index.read(0, 3)] == ["p0.jpg", "p1.jpg", "p2.jpg"]


def test_features_that_are_not_finite_are_errors_and_a_resumed_job_gives_the_same_bytes(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_model = extract.run_in_batches

    def spoil_dark_images(runner: Runner, pixels: np.ndarray) -> Features:
        features = run_model(runner, pixels)
        embedding = np.array(features.embedding)
        embedding[pixels.mean((1, 2, 3)) < dark, 0] = np.nan
        return features._replace(embedding=embedding)

    options = {"batch_size": 4, "rows_per_shard": 3, "dense": True, "size": (32, 32)}
    brightness = []
    monkeypatch.setattr(extract, "run_in_batches", lambda r, p: brightness.extend(p.mean((1, 2, 3))) or run_model(r, p))
    embed_folder(images, model, tmp_path / "all", EmbedOptions(**options))
    dark = float(np.median(brightness))
    expected = {f"p{i}.jpg" for i, value in enumerate(brightness) if value < dark}
    assert len(expected) == 10
    monkeypatch.setattr(extract, "run_in_batches", spoil_dark_images)
    whole = embed_folder(images, model, tmp_path / "whole", EmbedOptions(**options))
    dataset = read_dataset(tmp_path / "whole")
    assert (whole.rows, whole.errors) == (10, 10)
    assert {row["path"] for row in dataset.errors() if "not finite" in row["reason"]} == expected
    assert not expected & {row.path for row in dataset}
    assert all(np.isfinite(row.embedding).all() for row in dataset)

    class StopError(Exception):
        """Ends a job."""

    def stop_at_eleven(progress: JobProgress) -> None:
        if progress.done == 11:
            raise StopError

    with pytest.raises(StopError):
        embed_folder(images, model, tmp_path / "cut", EmbedOptions(**options), stop_at_eleven)
    embed_folder(images, model, tmp_path / "cut", EmbedOptions(**options, resume=True))
    assert folder_digests(tmp_path / "cut") == folder_digests(tmp_path / "whole")


@pytest.mark.parametrize("output", ["embedding", "feature_map"])
def test_features_too_large_for_float16_are_errors(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    run_model = extract.run_in_batches

    def scale_first(runner: Runner, pixels: np.ndarray) -> Features:
        features = run_model(runner, pixels)
        values = np.array(getattr(features, output))
        values[0] *= 1e6
        return features._replace(**{output: values})

    monkeypatch.setattr(extract, "run_in_batches", scale_first)
    options = EmbedOptions(dtype="float16", batch_size=20, dense=True, size=(32, 32))
    summary = embed_folder(images, model, tmp_path / "half", options)
    assert (summary.rows, summary.errors) == (19, 1)
    dataset = read_dataset(tmp_path / "half")
    (error,) = dataset.errors()
    assert error["path"] == "p0.jpg"
    assert "larger than float16 holds (65,504); --dtype float32" in error["reason"]
    for row in dataset:
        assert row.embedding.dtype == np.float16
        assert np.isfinite(row.embedding).all()
        assert np.isfinite(row.maps["feature_map"]).all()
    single = embed_folder(images, model, tmp_path / "single", replace(options, dtype="float32"))
    assert (single.rows, single.errors) == (20, 0)


def test_fail_stops_at_the_first_unreadable_image_and_can_be_resumed(mixed: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"empty\.png.*--on-error skip"):
        embed_folder(mixed, model, tmp_path / "out", EmbedOptions(fail_on_unreadable=True))
    embed_folder(mixed, model, tmp_path / "out", EmbedOptions(resume=True))
    embed_folder(mixed, model, tmp_path / "whole")
    assert read_dataset(tmp_path / "out").vectors()[0] == read_dataset(tmp_path / "whole").vectors()[0]


def test_too_many_pixels_are_refused_before_they_are_decoded(images: Path, model: Path, tmp_path: Path) -> None:
    summary = embed_folder(images, model, tmp_path / "out", EmbedOptions(max_pixels=100 * 90))
    reasons = [error["reason"] for error in read_dataset(tmp_path / "out").errors()]
    assert summary.rows + len(reasons) == 20
    assert reasons
    assert all("above the limit" in reason for reason in reasons)


def test_on_the_command_line(
    gtsa_here: Callable[..., object], mixed: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "merge").symlink_to(mixed)  # a folder with the name of a subcommand
    monkeypatch.chdir(tmp_path)
    done = gtsa_here("embed", "./merge", "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "4 files could not be used" in done.stderr
    assert read_dataset(tmp_path / "out").vectors()[0] == NAMES
    done = gtsa_here("embed", "--model", model, "--out", tmp_path / "out", mixed)
    assert done.returncode == 2
    assert "--resume" in done.stderr
