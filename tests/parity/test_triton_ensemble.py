"""Ensembles of an encoder and heads for Triton: parsed by its published schema, run step by step in ONNX Runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fake_triton import infer, read_config
from helpers.task_models import random_task_model, save_random_task, task_spec
from typer.testing import CliRunner

from gtsa_kit.cli import app
from gtsa_kit.export.folder_report import read_folder_report
from gtsa_kit.export.head_export import export_head_artifact
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.triton.config import ServingOptions
from gtsa_kit.export.triton.ensemble import ensemble_models, ensemble_names, open_served_head
from gtsa_kit.export.triton.repository import write_repository
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model
from gtsa_kit.models.weights import save_encoder

pytestmark = pytest.mark.usefixtures("traces")


@pytest.fixture(scope="module")
def scenes(few: Path) -> ParityImages:
    return load_parity_images(few)


KINDS = {"road": "linear", "defects": "fpn flat", "weather": "classify"}
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of three heads that were trained on one encoder, and that encoder."""
    folder = tmp_path_factory.mktemp("runs")
    shared = random_task_model(task_spec("linear")).encoder
    made = {"encoder": folder / "encoder"}
    (folder / "encoder").mkdir()
    save_encoder(folder / "encoder", shared.vit.state_dict(), "vit_test", {})
    for name, kind in KINDS.items():
        made[name] = folder / name
        made[name].mkdir()
        head = random_task_model(task_spec(kind)).head
        model = TaskModel(shared, task_spec(kind))
        model.head.load_state_dict(head.state_dict())
        save_task_model(made[name], model, {"steps": 0})
    return made


@pytest.fixture(scope="module")
def encoder(runs: dict[str, Path], scenes: ParityImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "encoder.onnx"
    export_artifact(open_source(runs["encoder"]), "onnx", path, ExportOptions(layers=(0, 1)), scenes)
    return path


@pytest.fixture(scope="module")
def head_files(
    runs: dict[str, Path], scenes: ParityImages, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    for name in KINDS:
        export_head_artifact(open_source(runs[name]), folder / f"{name}.onnx", ExportOptions(), scenes)
    return {name: folder / f"{name}.onnx" for name in KINDS}


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments), "--format", "triton", "--json"])


def expected(run: Path, images: torch.Tensor) -> np.ndarray:
    """Logits of the PyTorch task model at the resolution of its maps."""
    model = load_task_model(run)
    with torch.inference_mode():
        return model.head(*model.features(images)).numpy()


@pytest.mark.parametrize("uint8", [False, True], ids=["float32", "uint8"])
def test_the_steps_compute_what_the_task_models_do(
    uint8: bool, runs: dict[str, Path], encoder: Path, head_files: dict[str, Path], few: Path, tmp_path: Path
) -> None:
    """The fake server parses each config by Triton's schema, checks every tensor, and runs the graphs by hand."""
    options = ["--input", "uint8"] if uint8 else []
    for name, file in head_files.items():
        options += ["--head", f"{name}={runs[name] if name == 'road' and not uint8 else file}"]
    done = invoke(encoder, *options, "--out", tmp_path / "models", "--images", few)
    assert done.exit_code == 0, done.output
    config = read_config(tmp_path / "models" / "model")
    assert (config.platform, config.max_batch_size) == ("ensemble", 16)
    steps = [step.model_name for step in config.ensemble_scheduling.step]
    first = ["model_encoder_preprocess", "model_encoder_floats"] if uint8 else ["model_encoder"]
    assert steps == [*first, "model_road", "model_defects", "model_weather"]
    assert [one.name for one in config.output] == ["embedding", "road_logits", "defects_logits", "weather_logits"]
    rng = np.random.default_rng(0)
    for batch, height, width in ((1, 32, 48), (3, 64, 32)):
        pixels = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        images = ((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
        outputs = infer(tmp_path / "models", "model", {"images": pixels if uint8 else images})
        for name in KINDS:
            np.testing.assert_allclose(
                outputs[f"{name}_logits"], expected(runs[name], torch.from_numpy(images)), atol=1e-3, rtol=1e-3
            )
    for name in steps:
        assert read_config(tmp_path / "models" / name).max_batch_size == 16
    report = read_folder_report(tmp_path / "models" / "model")
    assert "../model_road/1/model.onnx" in report.files
    assert not report.problem(tmp_path / "models" / "model")
    assert read_manifest(tmp_path / "models/model_weather/1/model.onnx").parity.passed
    listed = json.loads(done.stdout)
    assert json.dumps(listed).count("model") >= 1


def test_weights_are_exported_with_the_maps_of_the_heads(runs: dict[str, Path], few: Path, tmp_path: Path) -> None:
    head = ["--head", f"defects={runs['defects']}"]
    done = invoke(runs["encoder"], *head, "--name", "street", "--out", tmp_path / "models", "--images", few)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == ["street", "street_defects", "street_encoder"]
    images = torch.randn(2, 3, 32, 48)
    logits = infer(tmp_path / "models", "street", {"images": images.numpy()})["defects_logits"]
    (step, _) = read_config(tmp_path / "models" / "street").ensemble_scheduling.step
    assert set(step.output_map) == {"embedding", "feature_map_0", "feature_map_1"}, "every tensor is used"
    np.testing.assert_allclose(logits, expected(runs["defects"], images), atol=1e-3, rtol=1e-3)
    again = invoke(runs["encoder"], *head, "--name", "street", "--out", tmp_path / "models", "--images", few)
    assert again.exit_code != 0
    assert "exists; add --force to replace it" in f"{again.output} {again.exception}"


def test_a_graph_of_one_shape(
    runs: dict[str, Path], head_files: dict[str, Path], scenes: ParityImages, tmp_path: Path
) -> None:
    encoder, file = tmp_path / "encoder.onnx", head_files["road"]
    options = ExportOptions("fp32", Range(32, 32), Range(64, 64), Range(2, 2))
    export_artifact(open_source(runs["encoder"]), "onnx", encoder, options, scenes)
    manifest = read_manifest(encoder)
    models = ensemble_models(
        encoder, manifest, ServingOptions("m"), "float32", [open_served_head("road", file, manifest)]
    )
    write_repository(tmp_path / "models", models)
    assert {read_config(tmp_path / "models" / model.name).max_batch_size for model in models} == {0}
    images = torch.randn(2, 3, 32, 64)
    logits = infer(tmp_path / "models", "m", {"images": images.numpy()})["road_logits"]
    np.testing.assert_allclose(logits, expected(runs["road"], images), atol=1e-3, rtol=1e-3)


def test_heads_that_do_not_fit_are_refused(
    encoder: Path, head_files: dict[str, Path], scenes: ParityImages, tmp_path: Path
) -> None:
    save_random_task(tmp_path, task_spec("linear"), seed=1)
    other, manifest = tmp_path / "other.onnx", read_manifest(encoder)
    export_head_artifact(open_source(tmp_path), other, ExportOptions(), scenes)
    with pytest.raises(ValueError, match="--head road: the head was trained on an encoder with other weights"):
        open_served_head("road", other, manifest)
    with pytest.raises(ValueError, match=r"--head road: .* is no head"):
        open_served_head("road", encoder, manifest)
    own = head_files["defects"]
    without = manifest.model_copy(update={"outputs": manifest.outputs[:2]})
    with pytest.raises(ValueError, match=r"has no output feature_map_0; export it with --layers 0,1"):
        open_served_head("defects", own, without)
    dark = manifest.model_copy(update={"preprocessing": manifest.preprocessing | {"mean": (0.5,) * 3}})
    with pytest.raises(ValueError, match="trained on images of another normalization"):
        open_served_head("defects", own, dark)
    with pytest.raises(ValueError, match="two models of the ensemble would be named m_encoder"):
        ensemble_names(ServingOptions("m"), ["encoder"], False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--head", "road"], "--head takes NAME=HEAD"),
        (["--head", "road={road}", "--head", "road={road}"], "--head road is given twice"),
        (["--head", "road={encoder}"], "is an encoder, which has no head"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], words: str, runs: dict[str, Path], encoder: Path) -> None:
    wrong = invoke(encoder, *(text.format(**runs) for text in arguments))
    assert wrong.exit_code != 0
    assert words in f"{wrong.output} {wrong.exception}"
    wrong = invoke(runs["road"], "--head", f"road={runs['road']}")
    assert "has a head of its own; omit --head" in f"{wrong.output} {wrong.exception}"
    onnx = CliRunner().invoke(app, ["export", str(runs["encoder"]), "--format", "onnx", "--head", f"a={runs['road']}"])
    assert "--head needs --format triton" in f"{onnx.output} {onnx.exception}"
