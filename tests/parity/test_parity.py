"""The parity suite: every format against the float32 encoder, and proof that the gate sees what it is there to see."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from rich.console import Console

from gtsa_kit.checkpoint import load_encoder, save_encoder
from gtsa_kit.cli.export import parity_table
from gtsa_kit.encoder import Encoder, Features, Preprocessing
from gtsa_kit.export import load
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.parity import ParityImages, check_parity, compare_output, neighbour_agreement, parity_images
from gtsa_kit.export.pipeline import artifact_path, export_artifact
from gtsa_kit.export.runtime import Runner
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import CASES, FORMATS, SUFFIX, TOLERANCES, Case
from gtsa_kit.files import sha256_of

# Real photographs, where they lie beside the checkout; the gate brings a sample of its own where they do not.
SCENES = Path(__file__).parents[3] / "shared" / "data" / "scenes" / "coco"


def random_weights(arch: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights with real variance everywhere: timm's initial biases, norms and positions would hide mistakes."""
    torch.manual_seed(seed)
    weights = Encoder(arch).vit.state_dict()
    return {
        name: tensor + torch.randn_like(tensor) * (0.3 if tensor.ndim < 2 else 0.02) for name, tensor in weights.items()
    }


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("tiny")
    save_encoder(run, random_weights("vit_tiny"), "vit_tiny", {})
    return run


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("small")
    save_encoder(run, random_weights("vit_small"), "vit_small", {})
    return run


@pytest.fixture(scope="module")
def tiny_artifacts(tiny_run: Path) -> dict[str, Path]:
    source = open_source(tiny_run)
    paths = {form: artifact_path(source, form, None, False) for form in FORMATS}
    for form, path in paths.items():
        assert export_artifact(source, form, path).parity.passed
    return paths


@pytest.mark.parametrize("form", FORMATS)
def test_vit_small_holds_parity(form: str, small_run: Path, tmp_path: Path) -> None:
    """The one full ViT-S/16 path of each format."""
    source = open_source(small_run)
    path = tmp_path / f"encoder{SUFFIX[form]}"
    report = export_artifact(source, form, path, images=SCENES if SCENES.exists() else None).parity
    Console(width=120).print(parity_table(report))
    assert report.passed
    assert len(report.differences) == 2 * len(CASES)
    assert max(d.max_abs for d in report.differences) < TOLERANCES["fp32"].max_abs / 10  # the bound has room to spare
    assert report == read_manifest(path).parity


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", [(1, 224, 224), (3, 48, 208), (5, 16, 16), (1, 512, 32), (2, 640, 480)])
def test_any_shape_runs(
    form: str, shape: tuple[int, int, int], tiny_artifacts: dict[str, Path], tiny_run: Path
) -> None:
    """Shapes that the gate does not try."""
    images = np.random.default_rng(0).standard_normal((shape[0], 3, *shape[1:]), dtype=np.float32)
    wanted, got = load(tiny_run, "cpu")(images), load(tiny_artifacts[form], "cpu")(images)
    assert got.feature_map.shape == (shape[0], 64, shape[1] // 16, shape[2] // 16)
    np.testing.assert_allclose(got.feature_map, wanted.feature_map, atol=1e-4)
    np.testing.assert_allclose(got.embedding, wanted.embedding, atol=1e-4)
    np.testing.assert_allclose(got.embedding, got.feature_map.mean((2, 3)), atol=1e-5)


def test_onnx_is_one_plain_file(tiny_artifacts: dict[str, Path]) -> None:
    path = tiny_artifacts["onnx"]
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert "Resize" not in operators
    assert {"LayerNormalization", "Gelu"} <= operators
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["embedding", "feature_map"]
    axes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    assert json.loads({p.key: p.value for p in model.metadata_props}["gtsa_kit"]) == json.loads(
        manifest_path(path).read_text()
    )


def test_onnx_runs_where_nothing_of_ours_is(tiny_artifacts: dict[str, Path]) -> None:
    session = ort.InferenceSession(str(tiny_artifacts["onnx"]), providers=["CPUExecutionProvider"])
    embedding, feature_map = session.run(None, {"images": np.zeros((2, 3, 32, 64), np.float32)})
    assert (embedding.shape, feature_map.shape) == ((2, 64), (2, 64, 2, 4))


def test_torchscript_runs_where_nothing_of_ours_is(tiny_artifacts: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys, torch; m = torch.jit.load(sys.argv[1]); e, f = m(torch.zeros(2, 3, 32, 64));"
        "print(tuple(e.shape), tuple(f.shape)); assert not [n for n in sys.modules if n.startswith(('gtsa', 'timm'))]"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tiny_artifacts["torchscript"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout.strip() == "(2, 64) (2, 64, 2, 4)", done.stderr


def test_manifest_describes_the_artifact(tiny_artifacts: dict[str, Path], tiny_run: Path) -> None:
    manifest = read_manifest(tiny_artifacts["onnx"])
    assert manifest.source_sha256 == sha256_of(tiny_run / "encoder.safetensors")
    assert manifest.dim == 64
    assert manifest.target["opset"] == "20"
    assert manifest.axes["height"].multiple_of == 16
    assert manifest.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert {case.batch for case in manifest.parity.differences} == {1, 2, 7}


@pytest.mark.parametrize("given", FORMATS)
@pytest.mark.parametrize("wanted", FORMATS)
def test_an_exported_file_can_be_exported_again(
    given: str, wanted: str, tiny_artifacts: dict[str, Path], tiny_run: Path, tmp_path: Path
) -> None:
    source = open_source(tiny_artifacts[given])
    original = load_encoder(tiny_run).vit.state_dict()
    for name, tensor in source.encoder.vit.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    if given != wanted:
        manifest = export_artifact(source, wanted, tmp_path / f"encoder{SUFFIX[wanted]}")
        assert manifest.parity.passed
        assert manifest.source_sha256 == sha256_of(tiny_run / "encoder.safetensors")


class Faulty(Runner):
    """The true encoder with one thing wrong."""

    def __init__(
        self, runner: Runner, before: Callable[[np.ndarray], np.ndarray], after: Callable[[Features], Features]
    ) -> None:
        self.runner, self.before, self.after = runner, before, after
        self.manifest, self.provider = runner.manifest, "faulty"

    def _run(self, images: np.ndarray) -> Features:
        return self.after(self.runner(np.ascontiguousarray(self.before(images))))


def same(value):
    return value


FAULTS = {
    "transposed map": (same, lambda f: Features(f.embedding, f.feature_map.swapaxes(2, 3))),
    "map turned over": (same, lambda f: Features(f.embedding, f.feature_map[:, :, ::-1])),
    "embedding of the wrong image": (same, lambda f: Features(f.embedding[::-1], f.feature_map)),
    "BGR": (lambda x: x[:, ::-1], same),
    "not a number": (same, lambda f: Features(f.embedding * np.float32("nan"), f.feature_map)),
    "one token off": (same, lambda f: Features(f.embedding, np.roll(f.feature_map, 1, axis=3))),
    "half precision inside": (lambda x: x.astype(np.float16).astype(np.float32), same),
}


@pytest.fixture
def scenes(photographs: Path) -> ParityImages:
    return parity_images(photographs)


def test_the_true_encoder_passes(tiny_run: Path, scenes: ParityImages) -> None:
    report = check_parity(load_encoder(tiny_run), Faulty(load(tiny_run, "cpu"), same, same), scenes)
    assert report.passed
    assert report.worst.max_abs == 0.0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault: str, tiny_run: Path, scenes: ParityImages) -> None:
    report = check_parity(load_encoder(tiny_run), Faulty(load(tiny_run, "cpu"), *FAULTS[fault]), scenes)
    assert not report.passed
    assert not report.worst.passed


@pytest.mark.parametrize("layer", ["blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight", "norm.weight", "pos_embed"])
def test_one_percent_in_one_layer_is_caught(layer: str, tiny_run: Path, tmp_path: Path, scenes: ParityImages) -> None:
    weights = load_encoder(tiny_run).vit.state_dict()
    save_encoder(tmp_path, {**weights, layer: weights[layer] * 1.01}, "vit_tiny", {})
    assert not check_parity(load_encoder(tiny_run), load(tmp_path, "cpu"), scenes).passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": list(Preprocessing().std), "std": list(Preprocessing().mean)},
        {"mean": list(Preprocessing().mean[::-1])},
        {"std": [0.5, 0.5, 0.5]},
    ],
)
def test_a_manifest_with_wrong_preprocessing_is_caught(wrong: dict, tiny_run: Path, scenes: ParityImages) -> None:
    runner = load(tiny_run, "cpu")
    runner.manifest = runner.manifest.model_copy(update={"preprocessing": runner.manifest.preprocessing | wrong})
    assert not check_parity(load_encoder(tiny_run), runner, scenes).passed


def test_neighbour_agreement_against_scikit_like_loops() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 8))
    b = a + 0.4 * rng.standard_normal((40, 8))

    def nearest(rows: np.ndarray, i: int) -> int:
        cosines = [
            -2 if i == j else rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for j in range(40)
        ]
        return int(np.argmax(cosines))

    slow = np.mean([nearest(a, i) == nearest(b, i) for i in range(40)])
    assert 0 < slow < 1
    assert neighbour_agreement(a, b) == pytest.approx(slow)
    assert neighbour_agreement(a[:2], b[:2]) is None


def test_compare_output_measures_what_it_says() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((2, 5, 3, 4)).astype(np.float32)
    got = wanted.copy()
    got[1, :, 2, 3] *= -1
    d = compare_output("feature_map", wanted, got, Case(2, 48, 64), TOLERANCES["fp32"])
    assert d.min_cosine == pytest.approx(-1)
    assert d.mean_cosine == pytest.approx(1 - 2 / 24)
    assert d.max_abs == pytest.approx(2 * np.abs(wanted[1, :, 2, 3]).max())
    assert d.mean_abs == pytest.approx(np.abs(wanted - got).mean())


def test_gate_prefers_photographs_and_survives_broken_ones(photographs: Path, tmp_path: Path) -> None:
    for path in list(photographs.iterdir())[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"")
    assert len(parity_images(tmp_path).images) == 3
    assert len(parity_images(photographs).images) == 7
    assert "matplotlib" in parity_images(None).origin


def test_a_failing_gate_exits_1_keeps_the_file_and_names_the_worst(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gtsa_kit.cli.export import export
    from gtsa_kit.export import pipeline

    def bad_writer(encoder: Encoder, path: Path) -> dict[str, str]:
        spoilt = Encoder("vit_tiny").eval()
        spoilt.vit.load_state_dict(encoder.vit.state_dict())
        with torch.no_grad():
            spoilt.vit.blocks[0].mlp.fc1.weight *= 1.01
        return pipeline.export_torchscript(spoilt, path)

    monkeypatch.setitem(pipeline.WRITERS, "torchscript", bad_writer)
    with pytest.raises(SystemExit) as stopped:
        export(tiny_run, form="torchscript", out=tmp_path / "bad.ts", images=None, force=False)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "differs from the encoder" in said
    assert "cosine" in said
    assert not read_manifest(tmp_path / "bad.ts").parity.passed


def test_export_refuses_with_a_way_out(tiny_run: Path, tiny_artifacts: dict[str, Path], tmp_path: Path) -> None:
    source = open_source(tiny_run)
    with pytest.raises(ValueError, match="--force"):
        artifact_path(source, "onnx", None, force=False)
    assert artifact_path(source, "onnx", None, force=True) == tiny_run / "encoder.onnx"
    assert artifact_path(source, "onnx", tmp_path, force=False) == tmp_path / "encoder.onnx"
    with pytest.raises(ValueError, match="choose one of onnx, torchscript"):
        artifact_path(source, "tflite", None, force=False)
    with pytest.raises(ValueError, match=r"does not end in \.ts"):
        artifact_path(source, "torchscript", tmp_path / "x.onnx", force=False)
    with pytest.raises(ValueError, match="the source itself"):
        artifact_path(open_source(tiny_artifacts["onnx"]), "onnx", None, force=True)


def test_runner_says_what_is_allowed(tiny_artifacts: dict[str, Path]) -> None:
    for path in tiny_artifacts.values():
        runner = load(path, "cpu")
        good = np.zeros((1, 3, 32, 32), np.float32)
        for wrong, word in [
            (good.astype(np.float64), "float32"),
            (good[0], "batch, 3, height, width"),
            (good[:, :2], "batch, 3, height, width"),
            (good[:0], "at least one"),
            (np.zeros((1, 3, 33, 32), np.float32), "multiples of 16"),
        ]:
            with pytest.raises(ValueError, match=word):
                runner(wrong)


def test_load_says_what_it_can_open(tmp_path: Path, tiny_artifacts: dict[str, Path]) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for name, content in [
        ("bad.onnx", b"not a model"),
        ("bad.ts", b"PK\x03\x04 nor this"),
        ("bad.safetensors", b"\x00" * 20),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="bad"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "nothing.onnx")
    with pytest.raises(ValueError, match=r"ending in \.safetensors"):
        load(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="is not a run folder"):
        load(tmp_path)
    (tmp_path / "lost.ts").write_bytes(tiny_artifacts["torchscript"].read_bytes())
    with pytest.raises(ValueError, match="no manifest"):
        load(tmp_path / "lost.ts")
    (tmp_path / "alone.onnx").write_bytes(tiny_artifacts["onnx"].read_bytes())
    assert load(tmp_path / "alone.onnx").manifest.dim == 64  # ONNX carries its manifest
    (tmp_path / "alone.onnx.json").write_text('{"schema_version": 1}')
    with pytest.raises(ValueError, match="not a gtsa-kit manifest"):
        load(tmp_path / "alone.onnx")
    with pytest.raises(ValueError, match="device"):
        load(tiny_artifacts["onnx"], device="quantum")


def test_runner_is_safe_from_many_threads(tiny_artifacts: dict[str, Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1 + i % 3, 3, 32 + 16 * (i % 2), 48), dtype=np.float32) for i in range(24)]
    for path in tiny_artifacts.values():
        runner = load(path, "cpu")
        alone = [runner(images).feature_map for images in inputs]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda images: runner(images).feature_map, inputs))  # noqa: B023
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_preprocessing_of_a_photograph_is_one_and_the_same(tiny_artifacts: dict[str, Path]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    ours = Preprocessing()(image)
    for path in tiny_artifacts.values():
        np.testing.assert_array_equal(load(path, "cpu").preprocessing(image), ours)
