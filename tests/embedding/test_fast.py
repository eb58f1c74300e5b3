"""Tests of `gtsa embed --fast`: an int8 file is used if images keep their neighbors with it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.weights import save_random
from PIL import Image

from gtsa_kit.embedding import fast
from gtsa_kit.embedding.fast import NEIGHBORS, compare_neighbors, fast_path, sample_entries
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.runtime import load
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing, Samples
from gtsa_kit.models.weights import save_encoder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 70 images, smooth and noisy, and a broken one."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(70):
        side = int(rng.integers(2, 12))
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Run folder of the smallest encoder, which the int8 file is written to."""
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    save_encoder(tmp_path / "run", Encoder("vit_test").vit.state_dict(), "vit_test", {})
    return tmp_path / "run"


def rows(out: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(out / "vectors")
    return dict(zip(table["path"].to_pylist(), map(np.array, table["embedding"].to_pylist()), strict=True))


def test_agreement_equals_a_slow_version_in_float64() -> None:
    rng = np.random.default_rng(1)
    exact = {f"{i:03d}": rng.normal(size=16).astype(np.float32) for i in range(60)}
    other = {name: vector + 0.3 * rng.normal(size=16).astype(np.float32) for name, vector in exact.items()}
    other["unreadable by the first"] = np.ones(16, np.float32)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

    def nearest(vectors: dict[str, np.ndarray], name: str) -> list[str]:
        others = [each for each in exact if each != name]
        return sorted(others, key=lambda each: -cosine(vectors[name], vectors[each]))[:NEIGHBORS]

    lost, same = [], 0
    for name in exact:
        expected, actual = nearest(exact, name), nearest(other, name)
        lost += [
            cosine(exact[name], exact[a]) - cosine(exact[name], exact[b]) for a, b in zip(expected, actual, strict=True)
        ]
        same += expected[0] == actual[0]
    result = compare_neighbors(exact, other)
    assert result.images == 60
    assert result.agreement == pytest.approx(1 - np.mean(lost), abs=1e-6)
    assert 0 < result.agreement < 0.999
    assert result.same_nearest == pytest.approx(same / 60)
    alike = compare_neighbors(exact, {name: 3 * vector for name, vector in exact.items()})
    assert (alike.agreement, alike.same_nearest) == (1.0, 1.0)


def test_the_int8_file_is_written_once_and_used_by_the_job_and_its_resumption(
    photos: Path, model: Path, tmp_path: Path, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "MIN_AGREEMENT", 0.9)  # random weights and drawn images: what matters here is the way
    opened, open_manifest = [], load._open_manifest
    monkeypatch.setattr(load, "_open_manifest", lambda path: opened.append(path) or open_manifest(path))
    command = ("embed", str(photos), "--model", str(model), "--fast", "--size", "32", "--rows-per-shard", "16")
    done = gtsa_here(*command, "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    file = fast_path(model)
    assert opened.count(file) == 1
    assert f"{file.name} is used: the ten neighbors of an image agree to " in done.stdout + done.stderr
    assert json.loads((tmp_path / "a" / "job.json").read_text())["model"]["path"] == str(file)
    vectors = rows(tmp_path / "a")
    assert len(vectors) == 70

    written = file.stat().st_mtime_ns
    directly = gtsa_here("embed", str(photos), "--model", str(file), "--size", "32", "--out", str(tmp_path / "b"))
    assert directly.returncode == 0, directly.stderr
    assert all(np.array_equal(vectors[name], vector) for name, vector in rows(tmp_path / "b").items())

    monkeypatch.setattr(fast, "MIN_AGREEMENT", 2.0)  # a job goes on with the model that it began with
    resumed = gtsa_here(*command, "--out", str(tmp_path / "a"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "with which the job began" in resumed.stdout + resumed.stderr
    refused = gtsa_here(*command, "--out", str(tmp_path / "c"))
    assert refused.returncode == 0, refused.stderr
    assert "--fast: not used: the ten neighbors" in refused.stdout + refused.stderr
    plain = gtsa_here("embed", str(photos), "--model", str(model), "--size", "32", "--out", str(tmp_path / "d"))
    assert plain.returncode == 0, plain.stderr
    slow = rows(tmp_path / "d")
    assert all(np.array_equal(slow[name], vector) for name, vector in rows(tmp_path / "c").items())
    assert not all(np.array_equal(slow[name], vector) for name, vector in vectors.items())
    assert file.stat().st_mtime_ns == written


def test_a_file_of_other_weights_is_not_used(photos: Path, model: Path, tmp_path: Path, gtsa_here: Callable) -> None:
    fast_path(model).write_text("something else")
    command = ("embed", str(photos), "--model", str(model), "--fast", "--out", str(tmp_path / "a"))
    assert gtsa_here(*command).returncode == 2
    assert not (tmp_path / "a").exists()


def test_few_images_decide_nothing(
    photos: Path, model: Path, tmp_path: Path, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "MIN_AGREEMENT", -1.0)
    few = tmp_path / "few"
    few.mkdir()
    for i in range(5):
        (few / f"{i}.png").write_bytes((photos / f"{i}.png").read_bytes())
    done = gtsa_here("embed", str(few), "--model", str(model), "--fast", "--size", "32", "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert "not used: 5 images are too few" in done.stdout + done.stderr
    assert len(rows(tmp_path / "a")) == 5
    assert not fast_path(model).exists()


def test_the_sample_is_the_same_each_time_and_spread_over_the_source(photos: Path) -> None:
    from gtsa_kit.data.sources import open_source

    first, second = (sample_entries(open_source(str(photos)), 20) for _ in range(2))
    assert first == second
    assert len({entry.name for entry in first}) == 20
    assert {entry.name for entry in first} != {entry.name for entry in list(open_source(str(photos)).entries())[:20]}


def test_models_of_other_channels_have_a_file_of_their_samples(
    tmp_path: Path, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranges are set by the job's own images, and files of other channels are left out."""
    monkeypatch.setattr(fast, "MIN_AGREEMENT", 0.9)
    monkeypatch.setattr(fast, "ExportOptions", partial(ExportOptions, height=Range(32, 32), width=Range(32, 32)))
    images, run, rng = tmp_path / "images", tmp_path / "run", np.random.default_rng(0)
    images.mkdir()
    run.mkdir()
    for i in range(40):
        coarse = rng.integers(0, 3000, (*rng.integers(2, 6, 2), 5))
        np.save(images / f"{i}.npy", np.kron(coarse, np.ones((9, 9, 1))).astype(np.uint16))
    np.save(images / "four.npy", np.zeros((30, 30, 4), np.uint16))
    samples = Samples("uint16", (0.0,) * 5, (2500.0,) * 5, clip=True, colors=False)
    preprocessing = Preprocessing(32, mean=(1500.0,) * 5, std=(800.0,) * 5, samples=samples)
    save_random(run, EncoderSpec(ARCHITECTURES["vit_test"].with_channels(5), preprocessing))
    command = ("embed", str(images), "--model", str(run), "--size", "32")
    done = gtsa_here(*command, "--fast", "--out", str(tmp_path / "fast"))
    assert done.returncode == 0, done.stderr
    assert f"{fast_path(run).name} is used" in done.stdout + done.stderr
    manifest = read_manifest(fast_path(run))
    assert (manifest.input_type, manifest.precision, manifest.channels) == ("uint16", "int8", 5)
    assert gtsa_here(*command, "--out", str(tmp_path / "slow")).returncode == 0
    quick, slow = rows(tmp_path / "fast"), rows(tmp_path / "slow")
    assert set(quick) == set(slow) == {f"{i}.npy" for i in range(40)}
    for name, vector in slow.items():
        assert vector @ quick[name] > 0.995 * np.linalg.norm(vector) * np.linalg.norm(quick[name])
        assert not np.array_equal(vector, quick[name])
