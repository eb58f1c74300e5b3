"""Runners of every format: accepted and rejected inputs, concurrent calls."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.graphs import BOUNDED
from PIL import Image

from gtsa_kit.export import Runner, load
from gtsa_kit.export.formats.content import ReportWarning
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions, Range
from gtsa_kit.models.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("traces")

FORMATS = ["onnx", "torchscript", "pt2", "openvino"]


@pytest.fixture(scope="module")
def artifacts(made: Callable[..., Path]) -> dict[str, Path]:
    return {file_format: made(file_format) for file_format in FORMATS}


@pytest.fixture(scope="module")
def runners(artifacts: dict[str, Path]) -> dict[str, Runner]:
    return {file_format: load(path, "cpu") for file_format, path in artifacts.items()}


@pytest.fixture(scope="module")
def bounded(made: Callable[..., Path]) -> dict[str, Runner]:
    return {file_format: load(made(file_format, **BOUNDED), "cpu") for file_format in FORMATS}


def test_input_errors_name_what_is_allowed(runners: dict[str, Runner], bounded: dict[str, Runner]) -> None:
    good = np.zeros((1, 3, 32, 32), np.float32)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    wrong = [
        (good.astype(np.float64), "float32"),
        (good[0], "batch, 3, height, width"),
        (good[:, :2], "batch, 3, height, width"),
        (good[:0], "at least 1"),
        (np.zeros((1, 3, 33, 32), np.float32), "multiples of 16, got 33; nearest: 32"),
        ([[1.0]], "numpy array"),
    ]
    wrong_pixels = [
        (good, "uint8"),
        (pixels.transpose(0, 3, 1, 2), "batch, height, width, 3"),
        (pixels[:, :48], "height must be 64 to 256"),
        (np.zeros((1, 64, 336, 3), np.uint8), "width must be 48 to 320"),
        (np.zeros((5, 64, 64, 3), np.uint8), "batch must be 1 to 4"),
    ]
    for group, right, cases in ((runners, good, wrong), (bounded, pixels, wrong_pixels)):
        for runner in group.values():
            for images, word in cases:
                with pytest.raises(ValueError, match=word):
                    runner(images)
            rows, columns = right.shape[1:3] if right is pixels else right.shape[2:]
            assert runner(right).feature_map.shape == (1, 64, rows // 16, columns // 16)


def test_errors_of_fixed_axes(tiny_run: Path, tmp_path: Path, scenes: ParityImages) -> None:
    fixed = ExportOptions(height=Range(64, 64), width=Range(96, 96), batch=Range(2, 2), input="uint8")
    path = tmp_path / "encoder.onnx"
    export_artifact(open_source(tiny_run), "onnx", path, fixed, scenes)
    runner = load(path)
    image = Image.new("RGB", (300, 100))
    batch = np.stack([runner.prepare(image)] * 2)
    assert (batch.shape, batch.dtype) == ((2, 64, 96, 3), np.uint8)
    assert runner(batch).feature_map.shape == (2, 64, 4, 6)
    for wrong, word in [(batch[:1], "batch is fixed at 2"), (batch[:, :48], "height is fixed at 64")]:
        with pytest.raises(ValueError, match=word):
            runner(wrong)


def test_runners_are_safe_from_many_threads(runners: dict[str, Runner]) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1 + i % 5, 3, 32 + 16 * (i % 2), 48), dtype=np.float32) for i in range(24)]
    for file_format, runner in runners.items():
        alone = [runner(images).feature_map for images in inputs]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda images: runner(images).feature_map, inputs))  # noqa: B023
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=file_format)


def test_a_divided_batch_comes_back_in_order(runners: dict[str, Runner]) -> None:
    """Compare every image of a batch with the image alone."""
    images = np.random.default_rng(0).standard_normal((8, 3, 48, 64), dtype=np.float32)
    for runner in runners.values():
        if hasattr(runner, "cores"):
            runner.cores = 2
        for count in (2, 3, 5, 8):
            whole = runner(images[:count])
            for i in range(count):
                np.testing.assert_allclose(whole.feature_map[i], runner(images[i : i + 1]).feature_map[0], atol=1e-5)
                np.testing.assert_allclose(whole.embedding[i], runner(images[i : i + 1]).embedding[0], atol=1e-5)


def test_features_do_not_change_in_later_calls(runners: dict[str, Runner]) -> None:
    """Check that returned arrays are no buffers of the runtime."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((2, 3, 48, 64), dtype=np.float32) for _ in range(2))
    for runner in runners.values():
        features = runner(first)
        kept = features.feature_map.copy()
        runner(second)
        np.testing.assert_array_equal(features.feature_map, kept)


def test_preprocessing_is_the_same_in_every_runner(
    runners: dict[str, Runner], tiny_run: Path, tmp_path: Path, scenes: ParityImages
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    for runner in runners.values():
        assert runner.provider
        np.testing.assert_array_equal(runner.preprocessing(image), Preprocessing()(image))
        np.testing.assert_array_equal(runner.prepare(image), Preprocessing()(image))
    # Sides that do not reach 224: the nearest. What a runner reads from its manifest is the same for all of them.
    narrow = ExportOptions(height=Range(32, 96), width=Range(32, 128))
    export_artifact(open_source(tiny_run), "torchscript", tmp_path / "encoder.ts", narrow, scenes)
    prepared = load(tmp_path / "encoder.ts", "cpu").prepare(image)
    np.testing.assert_array_equal(prepared, Preprocessing()(image, (96, 128)))


def test_unreadable_files_are_rejected(tmp_path: Path, artifacts: dict[str, Path]) -> None:
    for name, content in [
        ("bad.onnx", b"not a model"),
        ("bad.ts", b"PK\x03\x04 nor this"),
        ("bad.pt2", b"PK\x03\x04 nor this"),
        ("bad.xml", b"<net"),
        ("empty.onnx", b""),
        ("empty.xml", b""),
        ("bad.safetensors", b"\x00" * 20),
        ("notes.txt", b"hello"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        for file_format, suffix in SUFFIX.items():
            if path.suffix == suffix:
                manifest = artifacts[file_format].with_name(f"encoder{suffix}.json").read_bytes()
                path.with_name(f"{name}.json").write_bytes(manifest)
        path.with_suffix(".bin").write_bytes(b"")
        with pytest.raises(ValueError, match=path.stem):
            load(path)
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "nothing.onnx")
    with pytest.raises(ValueError, match="device"):
        load(artifacts["onnx"], device="quantum")


def test_truncated_files_are_rejected(tmp_path: Path, artifacts: dict[str, Path]) -> None:
    for file_format, path in artifacts.items():
        cut = tmp_path / path.name
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        cut.with_name(f"{cut.name}.json").write_bytes(path.with_name(f"{path.name}.json").read_bytes())
        if file_format == "openvino":
            cut.with_suffix(".bin").write_bytes(path.with_suffix(".bin").read_bytes())
        with pytest.raises(ValueError, match="encoder"):
            load(cut)


def test_onnx_files_of_other_tools_are_named_as_such(tmp_path: Path, artifacts: dict[str, Path]) -> None:
    model = onnx.load(artifacts["onnx"])
    del model.metadata_props[:]
    foreign = tmp_path / "other vit.onnx"
    onnx.save(model, foreign)
    with pytest.raises(ValueError, match=r"not exported by gtsa-kit.*gtsa convert '.*other vit\.onnx' --out DIR"):
        load(foreign)


def test_missing_manifests_are_rejected(tmp_path: Path, artifacts: dict[str, Path]) -> None:
    for file_format in ("torchscript", "pt2"):
        lost = tmp_path / f"lost{SUFFIX[file_format]}"
        lost.write_bytes(artifacts[file_format].read_bytes())
        with pytest.raises(ValueError, match="no manifest"):
            load(lost)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(artifacts["onnx"].read_bytes())
    assert load(alone).manifest.dim == 64  # ONNX carries its manifest
    alone.with_name("alone.onnx.json").write_text('{"schema_version": 1}')
    with pytest.warns(ReportWarning, match="not a gtsa-kit manifest|manifest inside"):
        assert load(alone).manifest.dim == 64
    lost = tmp_path / "lost.xml"
    lost.write_bytes(artifacts["openvino"].read_bytes())
    lost.with_name("lost.xml.json").write_bytes(artifacts["openvino"].with_name("encoder.xml.json").read_bytes())
    with pytest.raises(ValueError, match=r"lost\.bin"):
        load(lost)
