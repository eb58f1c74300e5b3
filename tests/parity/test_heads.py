"""Heads that are exported alone and run on the outputs of an exported encoder."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.task_models import TASKS, random_task_model, save_random_task, task_spec

from gtsa_kit.export import load
from gtsa_kit.export.head_export import check_head_parity, export_head_artifact
from gtsa_kit.export.manifest import Manifest, read_manifest
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime.head_runner import HeadRunner
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.task_model import load_task_model
from gtsa_kit.models.weights import save_encoder, weights_digest


@pytest.fixture(scope="session")
def head(once, task_run, scenes: ParityImages):
    """Return the head of a test model as a file, made once."""

    def make(kind: str, precision: str = "fp32") -> Path:
        def fill(folder: Path) -> None:
            export_head_artifact(
                open_source(task_run(kind)), folder / "head.onnx", ExportOptions(precision=precision), scenes
            )

        return once(f"head {kind} {precision}", fill) / "head.onnx"

    return make


@pytest.mark.parametrize("kind", TASKS)
def test_an_encoder_and_a_head_compute_what_the_task_model_does(kind: str, head, task_run) -> None:
    """Run ONNX Runtime itself on the head's file, and torch's own encoder and task model."""
    file, model = head(kind), load_task_model(task_run(kind))
    assert read_manifest(file).parity.passed
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    expected_names = {"classify": ["embedding"], "linear": ["feature_map"]}
    assert names == expected_names.get(kind, ["feature_map_0", "feature_map_1"])
    for size in [(1, 3, 16, 16), (3, 3, 80, 48)]:
        images = torch.randn(*size)
        with torch.inference_mode():
            features, expected = model.encoder(images), model(images)
            layers = {f"feature_map_{layer}": values for layer, values in features.layers.items()}
            named = {"embedding": features.embedding, "feature_map": features.feature_map, **layers}
            logits = torch.from_numpy(session.run(None, {name: named[name].numpy() for name in names})[0])
            torch.testing.assert_close(model.resize(logits, size[2:]), expected, atol=2e-4, rtol=1e-4)


def test_the_manifest_names_the_encoder(head, task_run) -> None:
    manifest, model = read_manifest(head("fpn flat")), load_task_model(task_run("fpn flat"))
    assert (manifest.kind, manifest.task, manifest.output, manifest.head.layers) == (
        "head",
        "segment",
        "logits",
        (0, 0, 1, 1),
    )
    assert manifest.weights_sha256 == weights_digest(dict(model.encoder.vit.state_dict()))
    assert manifest.inputs[0].shape == ("batch", 64, "rows", "columns")
    assert read_manifest(head("fpn strided")).outputs[0].shape == ("batch", 5, "4*rows", "4*columns")


def test_half_precision_passes_its_gate(head) -> None:
    report = read_manifest(head("fpn flat", "fp16")).parity
    assert report.passed
    assert max(d.max_abs for d in report.differences) > 1e-5


def test_a_changed_head_is_detected(head, task_run, scenes: ParityImages) -> None:
    model = load_task_model(task_run("linear"))
    with torch.no_grad():
        model.head.classifier.weight.mul_(1.01)
    assert not check_head_parity(model, HeadRunner(head("linear")), scenes).passed


def test_a_head_runs_on_the_features_of_its_own_encoder_alone(head, task_run, tiny_run: Path, tmp_path: Path) -> None:
    runner, model = HeadRunner(head("fpn flat")), load_task_model(task_run("fpn flat"))
    save_encoder(tmp_path, model.encoder.vit.state_dict(), "vit_test", {})
    encoder = load(tmp_path, "cpu", layers=runner.layers)
    runner.check_encoder(encoder.manifest)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 48), np.float32)
    with torch.inference_mode():
        expected = model.head(*model.features(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(runner(encoder(images)), expected, atol=2e-4)
    with pytest.raises(ValueError, match=r"no output feature_map_0; export it with --layers 0,1"):
        runner.check_encoder(load(tmp_path, "cpu").manifest)
    with pytest.raises(ValueError, match="encoder with other weights"):
        runner.check_encoder(load(tiny_run, "cpu", layers=runner.layers).manifest)
    with pytest.raises(ValueError, match="the features have no feature_map_0"):
        runner(Features(np.zeros((1, 64)), np.zeros((1, 64, 2, 2))))


def test_what_can_not_be_a_head_is_refused(head, made, tiny_run: Path, gtsa_here, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a head, which takes features"):
        load(head("linear"))
    with pytest.raises(ValueError, match="is no head; export one with"):
        HeadRunner(made("onnx"))
    save_random_task(tmp_path, task_spec("linear", final_norm=False))
    run = ["export", tmp_path, "--part", "head"]
    for args, message in (
        (["export", tiny_run, "--part", "head"], "is an encoder, which has no head"),
        (["export", tiny_run, "--part", "tail"], "--part takes model or head"),
        (run, "before the encoder's final norm"),
        ([*run, "--format", "pt2"], "a head alone is exported to onnx"),
        ([*run, "--precision", "bf16"], "exported in fp32 or fp16"),
        ([*run, "--size", "64"], "features of any batch and size"),
        ([*run, "--score", tmp_path], "--score is for whole models"),
    ):
        done = gtsa_here(*args)
        assert done.returncode == 2, done.stderr
        assert message in " ".join(done.stderr.split())
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def test_the_command_writes_a_head_and_info_describes_it(gtsa_here, few: Path, tmp_path: Path) -> None:
    from gtsa_kit.models.task_model import save_task_model

    save_task_model(tmp_path, random_task_model(task_spec("classify")), {})
    done = gtsa_here("export", tmp_path, "--part", "head", "--images", few)
    assert done.returncode == 0, done.stderr
    assert "it takes embedding of its encoder" in done.stderr
    manifest: Manifest = read_manifest(tmp_path / "head.onnx")
    assert (manifest.kind, manifest.source.relative) == ("head", "model.safetensors")
    printed = gtsa_here("info", tmp_path / "head.onnx").stdout
    for expected in ("classify", "embedding  float32 (batch, 64)", "5: sky, road, car, tree, fence"):
        assert expected in printed
