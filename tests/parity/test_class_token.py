"""The class token as the embedding and as an output of its own, in every format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gtsa_kit
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.runtime.batching import run_in_batches
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.self_check import self_check
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions, Range

pytestmark = pytest.mark.usefixtures("traces")

FORMATS = ("torchscript", "pt2", "onnx", "openvino")
CLS = ImportOptions(embedding="cls")
NAMES = ("embedding", "feature_map", "feature_map_0", "class_token")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, scenes: ParityImages) -> Callable[[str], Path]:
    """Files of the tiny encoder with the class token as the embedding and as an output, made once, of one size."""
    folder, size = tmp_path_factory.mktemp("class_token"), {"height": Range(32, 32), "width": Range(48, 48)}

    def export(file_format: str) -> Path:
        if file_format == "openvino":
            pytest.importorskip("openvino")
        path = folder / f"encoder{SUFFIX[file_format]}"
        if not path.exists():
            options = ExportOptions(layers=(0,), class_token=True, **size)
            export_artifact(open_source(tiny_run, CLS), file_format, path, options, scenes)
        return path

    return export


@pytest.mark.parametrize("file_format", FORMATS)
@torch.no_grad()
def test_every_format_returns_the_class_token(file_format: str, exported: Any, tiny_run: Path) -> None:
    runner = load(exported(file_format), "cpu", class_token=True)
    report = runner.manifest.parity
    assert report is not None
    assert report.passed
    assert {d.output for d in report.differences} == set(NAMES) == {spec.name for spec in runner.manifest.outputs}
    assert (runner.manifest.embedding, runner.manifest.source.embedding) == ("cls", "cls")
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 48), np.float32)
    expected = gtsa_kit.load_encoder(tiny_run)(torch.from_numpy(images))
    whole, parts = runner(images), run_in_batches(runner, images, 2)
    for features in (whole, parts):
        for name in ("class_token", "feature_map"):
            np.testing.assert_allclose(getattr(features, name), getattr(expected, name).numpy(), atol=1e-4)
        np.testing.assert_allclose(features.embedding, expected.class_token.numpy(), atol=1e-4)
    np.testing.assert_allclose(whole.feature_map.mean((2, 3)), expected.embedding.numpy(), atol=1e-4)


def test_checks_without_a_reference_follow_the_manifest(exported: Any, scenes: ParityImages) -> None:
    runner = load(exported("torchscript"), "cpu")
    checks = {check.name: check for check in self_check(runner, scenes)}
    assert all(check.passed for check in checks.values())
    assert checks["embedding"].message.startswith("the embedding is the class token, at ")
    other = runner.manifest.model_copy(update={"architecture": {**runner.manifest.architecture, "embedding": "mean"}})
    runner.manifest = other
    assert [check.name for check in self_check(runner, scenes) if not check.passed] == ["embedding"]
    runner.manifest = other.model_copy(update={"architecture": {**other.architecture, "embedding": "norm of mean"}})
    assert {check.name for check in self_check(runner, scenes)} == {"shapes", "finite", "repeatable"}


def test_another_embedding_is_not_compared(exported: Any, tiny_run: Path, scenes: ParityImages) -> None:
    runner = load(exported("torchscript"), "cpu")
    with pytest.raises(ValueError, match="embedding is the class token, that of the encoder the mean of the patch tok"):
        check_parity(open_source(tiny_run).encoder, runner, scenes)
    assert check_parity(open_source(tiny_run, CLS).encoder, runner, scenes).passed


def test_a_file_without_the_output_is_named(tiny_onnx: Path) -> None:
    assert load(tiny_onnx, "cpu")(np.zeros((1, 3, 32, 32), np.float32)).class_token is None
    with pytest.raises(ValueError, match=r"encoder\.onnx has no output class_token; export it with --class-token"):
        load(tiny_onnx, "cpu", class_token=True)


def test_the_commands_take_and_print_the_kind(tiny_run: Path, images: Path, tmp_path: Path, gtsa_here: Any) -> None:
    path, few = tmp_path / "encoder.ts", tmp_path / "few"
    few.mkdir()
    (few / "a.jpg").write_bytes(sorted(images.iterdir())[0].read_bytes())
    options = ("--embedding", "cls", "--class-token", "--size", "32", "--images", few, "--out", path)
    done = gtsa_here("export", tiny_run, *options)
    assert done.returncode == 0, done.stderr
    assert "class_token  float32 (batch, 64)" in gtsa_here("info", path).stdout
    assert "the class token" in gtsa_here("info", path).stdout
    assert json.loads(gtsa_here("info", path, "--json").stdout)["manifest"]["source"]["embedding"] == "cls"
    assert gtsa_here("verify", path, "--images", few).returncode == 0
    run = json.loads(gtsa_here("info", tiny_run, "--embedding", "cls", "--json").stdout)
    assert run["encoder"]["architecture"]["embedding"] == "cls"
    done = gtsa_here("info", tiny_run, "--embedding", "both")
    assert done.returncode == 2
    assert "--embedding takes mean or cls, got 'both'" in done.stderr
