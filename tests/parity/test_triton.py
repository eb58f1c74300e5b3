"""Model repositories for NVIDIA Triton, parsed by its published schema and queried by its own client."""

import errno
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as client
import tritonclient.grpc.model_config_pb2 as schema
from google.protobuf import text_format
from helpers.fake_triton import full_shape, read_config, serving
from typer.testing import CliRunner

from gtsa_kit.cli import app
from gtsa_kit.cli.support.export_triton import parse_serving
from gtsa_kit.export import load
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.manifest import Manifest, read_manifest, write_manifest
from gtsa_kit.export.manifest_records import EngineRecord, GraphRecord
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.triton import repository as triton_repository
from gtsa_kit.export.triton.config import ServingOptions, check_serving, max_batch_size
from gtsa_kit.export.triton.models import open_artifact, preprocess_graph, preprocess_manifest, repository_models
from gtsa_kit.export.triton.pbtxt import EnumValue, to_pbtxt
from gtsa_kit.export.triton.repository import write_repository
from gtsa_kit.files import sha256_of
from gtsa_kit.models.encoder import Encoder

pytestmark = pytest.mark.usefixtures("traces")

CLIENT = Path(__file__).parents[2] / "examples" / "triton_client.py"
ONNX_TYPES = {
    onnx.TensorProto.FLOAT: schema.TYPE_FP32,
    onnx.TensorProto.FLOAT16: schema.TYPE_FP16,
    onnx.TensorProto.UINT8: schema.TYPE_UINT8,
}


@pytest.fixture(scope="module")
def half_precision(tiny_run: Path, scenes: ParityImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graph with uint8 input, fp16, two more maps, the class token, fixed size and batches up to 6."""
    options = ExportOptions("fp16", Range(64, 64), Range(48, 48), Range(1, 6), (0, 1), True, input="uint8")
    path = tmp_path_factory.mktemp("half_precision") / "encoder.onnx"
    export_artifact(open_source(tiny_run), "onnx", path, options, scenes)
    return path


@pytest.fixture(scope="module")
def single(tiny_run: Path, scenes: ParityImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graph for one image of one size."""
    options = ExportOptions("fp32", Range(32, 32), Range(64, 64), Range(1, 1))
    path = tmp_path_factory.mktemp("single") / "encoder.onnx"
    export_artifact(open_source(tiny_run), "onnx", path, options, scenes)
    return path


def write(
    artifact: Path, repository: Path, input_type: Any = "float32", force: bool = False, **settings: Any
) -> list[Path]:
    models = repository_models(artifact, open_artifact(artifact), ServingOptions(**settings), input_type)
    return write_repository(repository, models, force)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments), "--format", "triton"])


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def engine_of(graph: Path, folder: Path, variant: str = "tensorrt", fixed: bool = False) -> Path:
    """Write a placeholder with the manifest of an engine; a real one of this variant needs a GPU to build."""
    path = folder / "encoder.engine"
    path.write_bytes(b"an engine")
    own = read_manifest(graph)
    record = EngineRecord(
        variant=variant,
        version="11.0.0",
        capabilities=("9.0",),
        profile=() if fixed else ((1, 3, 32, 32), (4, 3, 96, 64), (12, 3, 128, 256)),
        graph=GraphRecord(file=graph.name, sha256=sha256_of(graph), opset=20, parity=own.parity),
        parity="not run: no GPU",
        optimization_level=None,
        workspace_gib=None,
        seconds=1.0,
    )
    ends = {"batch": (1, 12), "height": (32, 128), "width": (32, 256)}
    axes = {
        name: axis.model_copy(update={"min": ends[name][0], "max": ends[name][1]}) for name, axis in own.axes.items()
    }
    changes = {"format": "trt", "engine": record, "parity": None, "axes": axes, "content_sha256": sha256_of(path)}
    write_manifest(path, own.model_copy(update=changes))
    return path


def check_against_graph(config: schema.ModelConfig, graph: onnx.GraphProto) -> None:
    """Compare names, types and shapes with the graph itself, not with its manifest."""
    for declared, given in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in declared] == [value.name for value in given]
        for tensor, value in zip(declared, given, strict=True):
            real = value.type.tensor_type
            assert tensor.data_type == ONNX_TYPES[real.elem_type]
            shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in real.shape.dim]
            assert full_shape(config, tensor) == shape


def check_warmup(config: schema.ModelConfig, model: Path) -> None:
    """Run the warm-up requests, which the graph must accept."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert config.model_warmup
    assert len({one.name for one in config.model_warmup}) == len(config.model_warmup)
    for one in config.model_warmup:
        assert 1 <= one.batch_size <= max(1, config.max_batch_size)
        (name, tensor), *_ = one.inputs.items()
        shape = [one.batch_size, *tensor.dims] if config.max_batch_size else list(tensor.dims)
        dtype = {schema.TYPE_FP32: np.float32, schema.TYPE_UINT8: np.uint8}[tensor.data_type]
        assert tensor.zero_data
        assert len(session.run(None, {name: np.zeros(shape, dtype)})) == len(config.output)


def test_configurations_match_the_graphs(tiny_onnx: Path, half_precision: Path, single: Path, tmp_path: Path) -> None:
    for artifact, max_batch in ((tiny_onnx, 16), (half_precision, 6), (single, 0)):
        (folder,) = write(artifact, tmp_path / "models", name=artifact.parent.name)
        config = read_config(folder)
        assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
        assert config.max_batch_size == max_batch
        check_against_graph(config, onnx.load(folder / "1" / "model.onnx").graph)
        check_warmup(config, folder / "1" / "model.onnx")
        assert config.version_policy.latest.num_versions == 1
        assert [(group.kind, group.count) for group in config.instance_group] == [
            (schema.ModelInstanceGroup.KIND_AUTO, 1)
        ]
        preferred = list(config.dynamic_batching.preferred_batch_size)
        assert config.HasField("dynamic_batching") == bool(max_batch)
        assert preferred == sorted(set(preferred))
        assert all(1 < batch <= max_batch for batch in preferred)
        assert load(folder / "1" / "model.onnx", "cpu").manifest.checksum == open_artifact(artifact).checksum
        assert load(folder / "1" / "model.onnx", "cpu").manifest.parity.passed
        assert sha256_of(folder / "1" / "model.onnx") == sha256_of(artifact)
    assert {len(read_config(path).output) for path in (tmp_path / "models").iterdir()} == {2, 5}


def test_options_reach_the_configuration(tiny_onnx: Path, tmp_path: Path) -> None:
    (folder,) = write(tiny_onnx, tmp_path, name="a", kind="gpu", instances=3, max_batch=24, queue_delay_ms=2.5)
    config = read_config(folder)
    assert config.max_batch_size == 24
    assert (config.instance_group[0].kind, config.instance_group[0].count) == (schema.ModelInstanceGroup.KIND_GPU, 3)
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 24]
    (folder,) = write(tiny_onnx, tmp_path, name="b", max_batch=0, kind="cpu")
    config = read_config(folder)
    assert list(config.input[0].dims) == [-1, 3, -1, -1]
    assert not config.HasField("dynamic_batching")
    check_against_graph(config, onnx.load(tiny_onnx).graph)
    check_warmup(config, folder / "1" / "model.onnx")
    (folder,) = write(tiny_onnx, tmp_path, name="c", max_batch=1)
    assert not read_config(folder).HasField("dynamic_batching")
    assert list(read_config(folder).input[0].dims) == [3, -1, -1]


def test_engines_keep_their_profile(tiny_onnx: Path, tmp_path: Path) -> None:
    (folder,) = write(engine_of(tiny_onnx, tmp_path), tmp_path / "models", name="fast")
    config = read_config(folder)
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "tensorrt", 12)
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 12]
    assert [list(one.inputs["images"].dims) for one in config.model_warmup] == [[3, 96, 64]] * 2
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine"
    assert read_manifest(folder / "1" / "model.plan").engine is not None
    for settings, message in (({"max_batch": 13}, "maximum batch of the graph"), ({"kind": "cpu"}, "runs on a GPU")):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "encoder.engine", tmp_path / "models", name="x", **settings)
    three = write(tmp_path / "encoder.engine", tmp_path / "models", input_type="uint8", name="uint8")
    assert [read_config(path).platform for path in three] == ["onnxruntime_onnx", "tensorrt_plan", "ensemble"]


def test_artifacts_that_triton_can_not_run_are_rejected(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine of tensorrt-rtx.*--runtime tensorrt"):
        open_artifact(engine_of(tiny_onnx, tmp_path, "tensorrt-rtx"))
    path = engine_of(tiny_onnx, tmp_path)
    path.write_bytes(b"an engin")
    with pytest.raises(ValueError, match="is not the engine that"):
        open_artifact(path)
    manifest = read_manifest(tiny_onnx)
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(tiny_onnx.read_bytes())
    ungated = manifest.model_copy(update={"parity": None})
    for changed, message in ((ungated, "has not been through"), (with_failed_parity(manifest), "failed its")):
        write_manifest(graph, changed)
        with pytest.raises(ValueError, match=message):
            open_artifact(graph)
    for file_format, precision, batch, settings, message in (
        ("onnx", "fp8", Range(1, None), ServingOptions(), "fp8 only with a session option"),
        ("onnx", "bf16", Range(1, None), ServingOptions(kind="cpu"), "bf16 runs on a GPU"),
        ("onnx", "fp32", Range(4, 4), ServingOptions(max_batch=2), "batches of 4; export it with --batch 1:2"),
        ("onnx", "fp32", Range(2, None), ServingOptions(max_batch=2), "batches of 2 or more"),
        ("onnx", "fp32", Range(1, 8), ServingOptions(max_batch=9), "above 8"),
    ):
        with pytest.raises(ValueError, match=message):
            check_serving(file_format, precision, batch, settings)
    assert max_batch_size(Range(2, None), None) == max_batch_size(Range(4, 4), None) == 0
    for invalid in ({"name": "../x"}, {"name": ""}, {"name": "a b"}, {"instances": 0}, {"queue_delay_ms": -1.0}):
        with pytest.raises(ValueError, match=r"takes|is the name of a folder"):
            ServingOptions(**invalid)  # type: ignore[arg-type]


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.1, 0.5, 0.9)])
def test_uint8_images_are_normalized_like_in_the_runner(tiny_onnx: Path, scenes: ParityImages, mean: Any) -> None:
    own = read_manifest(tiny_onnx)
    manifest = own.model_copy(update={"preprocessing": own.preprocessing | {"mean": mean}})
    session = onnxruntime.InferenceSession(
        preprocess_graph(preprocess_manifest(manifest, "uint8")), providers=["CPUExecutionProvider"]
    )
    runner = load(tiny_onnx, "cpu")
    runner.manifest = manifest
    for image in scenes.images[:3]:
        for size in ((224, 224), (48, 112)):
            pixels = runner.preprocessing.resized(image, size)
            (normalized,) = session.run(None, {"images": pixels[None]})
            np.testing.assert_allclose(normalized[0], runner.prepare(image, size), rtol=0, atol=1e-6)
            exact = (pixels.astype(np.float64) / 255 - mean) / np.float64(manifest.preprocessing["std"])
            np.testing.assert_allclose(normalized[0], exact.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_preprocessing_keeps_fixed_sizes(single: Path, tmp_path: Path) -> None:
    folders = write(single, tmp_path, input_type="uint8", name="one")
    configs = {path.name: read_config(path) for path in folders}
    assert list(configs) == ["one_preprocess", "one_floats", "one"]
    for name in ("one_preprocess", "one_floats"):
        check_against_graph(configs[name], onnx.load(tmp_path / name / "1" / "model.onnx").graph)
        check_warmup(configs[name], tmp_path / name / "1" / "model.onnx")
    assert list(configs["one"].input[0].dims) == [1, 32, 64, 3]


def test_the_client_gets_the_outputs_of_the_runner(
    tiny_onnx: Path, half_precision: Path, single: Path, scenes: ParityImages, tmp_path: Path
) -> None:
    images = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(images, scenes.images, strict=False):
        image.save(path)
    models = tmp_path / "models"
    write(tiny_onnx, models, name="floats")
    write(tiny_onnx, models, input_type="uint8", name="uint8")
    write(half_precision, models, input_type="uint8", name="half")
    write(single, models, name="single")
    request_features = module_of(CLIENT).features
    with serving(models) as url, client.InferenceServerClient(url) as server:
        for name, artifact, count in (
            ("floats", tiny_onnx, 3),
            ("uint8", tiny_onnx, 3),
            ("half", half_precision, 3),
            ("single", single, 1),
        ):
            path = models / name / "1" / "model.onnx.json"
            manifest = json.loads(path.read_text()) if path.exists() else None
            outputs = request_features(server, name, images[:count], manifest)
            runner = load(artifact, "cpu")
            expected = runner(np.stack([runner.prepare(image) for image in scenes.images[:count]]))
            np.testing.assert_allclose(outputs["embedding"], expected.embedding, atol=1e-4)
            np.testing.assert_allclose(outputs["feature_map"], expected.feature_map, atol=1e-4)
            assert {f"feature_map_{layer}" for layer in expected.layers} == {n for n in outputs if n[-1].isdecimal()}
            assert ("class_token" in outputs) == (name == "half")
            if name == "half":
                np.testing.assert_allclose(outputs["class_token"], expected.class_token, atol=1e-4)
        with pytest.raises(client.InferenceServerException, match="is not"):
            request_features(
                server, "single", images[:2], json.loads((tiny_onnx.parent / "encoder.onnx.json").read_text())
            )
        done = subprocess.run(
            [sys.executable, CLIENT, "uint8", images[0], "--url", url], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("embedding [1, 64] ")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_existing_model_is_replaced_only_with_force(tiny_onnx: Path, single: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write(tiny_onnx, models, input_type="uint8", name="a")
    before = tree(models)
    with pytest.raises(ValueError, match="a_preprocess exists; add --force"):
        write(tiny_onnx, models, input_type="uint8", name="a", max_batch=2)
    assert tree(models) == before
    write(tiny_onnx, models, input_type="uint8", force=True, name="a", max_batch=2)
    assert {read_config(path).max_batch_size for path in models.iterdir()} == {2}
    (models / "theirs").mkdir()
    (models / "theirs" / "config.pbtxt").write_text('name: "theirs"')
    with pytest.raises(ValueError, match="was not written by gtsa export"):
        write(tiny_onnx, models, force=True, name="theirs")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        write(tiny_onnx, tmp_path / "file", name="a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "models"]


@pytest.mark.parametrize("fails", ["first rename", "second rename", "full disk"])
def test_a_failure_leaves_the_repository_unchanged(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    models = tmp_path / "models"
    write(tiny_onnx, models, name="a")
    before = tree(models)
    renames: list[Path] = []
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if "probe" not in Path(source).name:
            renames.append(Path(target))
            if len(renames) == (1 if fails == "first rename" else 2):
                raise OSError(errno.EIO, "injected")
        real(source, target)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails == "full disk":
        monkeypatch.setattr(triton_repository.shutil, "copyfileobj", full)
    else:
        monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match=r"injected|No space"):
        write(tiny_onnx, models, force=True, name="a", max_batch=2)
    assert tree(models) == before
    monkeypatch.setattr(triton_repository.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        write(tiny_onnx, tmp_path / "other", name="a")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_repository_that_is_a_mount_point_is_staged_inside(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename
    models = tmp_path / "models"

    def rename(source: Path, target: Path) -> None:
        if models in Path(target).parents and models not in Path(source).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    write(tiny_onnx, models, name="a")
    write(tiny_onnx, models, name="a", force=True, max_batch=3)
    assert [path.name for path in models.iterdir()] == ["a"]
    assert read_config(models / "a").max_batch_size == 3


def test_the_command_exports_a_run_through_the_parity_gate(
    tiny_run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    arguments = [tiny_run, "--out", models, "--size", "32", "--batch", "1:2", "--input", "uint8", "--images", images]
    done = invoke(*arguments, "--name", "tiny", "--instances", "cpu:2", "--json")
    assert done.exit_code == 0, done.output
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert (artifact["path"], artifact["passed"]) == (str(models / "tiny"), True)
    assert artifact["folder"] == json.loads((models / "tiny" / "gtsa.json").read_text())
    config = read_config(models / "tiny")
    assert (config.max_batch_size, config.input[0].data_type) == (2, schema.TYPE_UINT8)
    assert (config.instance_group[0].kind, config.instance_group[0].count) == (schema.ModelInstanceGroup.KIND_CPU, 2)
    written = read_manifest(models / "tiny" / "1" / "model.onnx")
    assert written.parity is not None
    assert written.parity.passed
    assert "exists; add --force" in str(invoke(*arguments, "--name", "tiny").exception)
    monkeypatch.setattr("gtsa_kit.cli.support.export_triton.export_artifact", lambda *_: with_failed_parity(written))
    failed = invoke(*arguments, "--name", "worse", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout) == {"passed": False, "artifacts": []}
    assert [path.name for path in models.iterdir()] == ["tiny"]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def with_failed_parity(manifest: Manifest) -> Manifest:
    assert manifest.parity
    return manifest.model_copy(update={"parity": manifest.parity.model_copy(update={"passed": False})})


def test_the_command_rejects_invalid_options_before_it_exports(tiny_onnx: Path, tiny_run: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tiny_onnx, "--precision", "fp16"), "served as it is"),
        ((tiny_onnx, "--layers", "1"), "served as it is"),
        ((tiny_onnx, "--batch", "4"), "served as it is"),
        ((tiny_onnx, "--instances", "tpu:1"), "N, gpu:N or cpu:N"),
        ((tiny_onnx, "--gpu", "8.9"), "needs --format trt"),
        ((tiny_run, "--batch", "2", "--max-batch", "4"), "requests can't be batched"),
        ((tiny_run, "--precision", "bf16", "--instances", "cpu:1"), "runs on a GPU"),
        ((tiny_run, "--precision", "tf32"), "does not support"),
    ):
        done = invoke(*arguments, "--out", tmp_path / "models")
        assert message in str(done.exception), done.output
    plain = CliRunner().invoke(app, ["export", str(tiny_onnx), "--format", "onnx", "--max-batch", "3"])
    assert "--max-batch needs --format triton" in str(plain.exception)
    assert not any(tmp_path.iterdir())
    assert parse_serving("a", "gpu:2", None, None) == ServingOptions("a", 2, "gpu")
    assert parse_serving(None, None, None, None) == ServingOptions()


@pytest.mark.parametrize("text", ['a "quoted" \\ name', "line\nbreak", "ünï ✓"])
def test_strings_survive_the_text_format(text: str) -> None:
    fields = {
        "name": text,
        "max_batch_size": 3,
        "input": [{"name": text, "data_type": EnumValue("TYPE_FP16"), "dims": []}],
    }
    config = text_format.Parse(to_pbtxt(fields), schema.ModelConfig())
    assert (config.name, config.input[0].name, config.input[0].data_type) == (text, text, schema.TYPE_FP16)


def test_half_precision_and_uint8_inputs_are_supported() -> None:
    manifest: Manifest = build_manifest(Encoder("vit_test"), "onnx", ExportOptions(), {}, "0" * 64)
    (images,) = manifest.inputs
    for dtype, kind in (("float16", schema.TYPE_FP16), ("uint8", schema.TYPE_UINT8), ("bfloat16", schema.TYPE_BF16)):
        changed = manifest.model_copy(update={"inputs": (images.model_copy(update={"dtype": dtype}),)})
        if dtype == "uint8":
            changed = preprocess_manifest(manifest, "uint8")
        (model,) = repository_models(Path("x"), changed, ServingOptions())
        config = text_format.Parse(to_pbtxt(model.config), schema.ModelConfig())
        assert config.input[0].data_type == kind
        assert config.model_warmup[0].inputs["images"].data_type == kind
