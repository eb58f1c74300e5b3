"""The `gtsa info` command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from helpers.traces import shared_traces
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from gtsa_kit.cli.info import info
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.inspect_file import inspect_file
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.manifest_records import SourceRecord
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions, Range
from gtsa_kit.files import sha256_of
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder

FORMATS = ("onnx", "torchscript", "openvino")
BOUNDED = Range(32, 64)


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of `tiny_run`, whose traces other tests make too."""
    folder = tmp_path_factory.mktemp("run")
    weights = load_encoder(tiny_run).vit.state_dict()
    save_encoder(folder, weights, "vit_test", {"method": "gtsa", "steps": 3, "settings": {"a": 1}})
    return folder


@pytest.fixture(scope="module")
def artifacts(run: Path, images: Path, once: Callable[[str, Callable[[Path], object]], Path]) -> dict[str, Path]:
    pytest.importorskip("openvino")
    source, parity_set = open_source(run), load_parity_images(images)
    paths = {file_format: run / f"encoder{SUFFIX[file_format]}" for file_format in FORMATS}
    with shared_traces(once):
        for file_format, path in paths.items():
            options = ExportOptions() if file_format == "onnx" else ExportOptions(height=BOUNDED, width=BOUNDED)
            export_artifact(source, file_format, path, options, parity_set)
    return paths


@pytest.fixture
def third_party_onnx(tmp_path: Path) -> Path:
    """Return an ONNX file with Resize, float16 and int8 weights, a fixed shape and an operator of another domain."""
    half = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float16), "half")
    quarter = numpy_helper.from_array(np.ones((2, 5), np.int8), "quarter")
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["x16", "half"], ["y16"]),
        helper.make_node("Resize", ["y16", "", "scales"], ["big"], antialias=1, mode="cubic"),
        helper.make_node("Constant", [], ["scales"], value=numpy_helper.from_array(np.ones(4, np.float32))),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("FastGelu", ["big"], ["y"], domain="com.microsoft"),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, (1, 4, "rows", None))],
        [half, quarter],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="theirs", producer_version="2")
    path = tmp_path / "theirs.onnx"
    onnx.save(model, path)
    return path


def call(*args: object) -> str:
    app = typer.Typer()
    app.command()(info)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, args)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_artifact_prints_its_manifest(file_format: str, artifacts: dict[str, Path]) -> None:
    path = artifacts[file_format]
    manifest = read_manifest(path)
    printed = json.loads(call(path, "--json"))
    assert printed["manifest"] == manifest.model_dump(mode="json")
    assert printed["kind"] == f"gtsa-kit {file_format}"
    files = [path, path.with_suffix(".bin")] if file_format == "openvino" else [path]
    assert printed["size"] == sum(file.stat().st_size for file in files)
    assert (printed["graph"] is None) == (file_format != "onnx")

    table = call(path)
    for text in (
        manifest.source_sha256,
        "vit_test: width 64, depth 2, heads 2, patch 16",
        "images  float32 (batch, 3, height, width)",
        "feature_map  float32 (batch, 64, height/16, width/16)",
        "16 or more, in steps of 16" if file_format == "onnx" else "32 to 64, in steps of 16",
        "passed on 7 images",
        manifest.parity.runtime,
        f"cosine {manifest.parity.worst.min_cosine:.7f}",
    ):
        assert text in table


def test_a_run_folder_and_its_weights(run: Path) -> None:
    for path, kind in ((run, "gtsa-kit run"), (run / "encoder.safetensors", "gtsa-kit weights")):
        printed = json.loads(call(path, "--json"))
        assert printed["kind"] == kind
        assert printed["encoder"]["sha256"] == sha256_of(run / "encoder.safetensors")
        count = sum(tensor.numel() for tensor in Encoder("vit_test").vit.state_dict().values())
        assert printed["encoder"]["parameters"] == {"float32": count}
        assert "method gtsa, steps 3\n" in "".join(f"{line.rstrip()}\n" for line in call(path).splitlines())


def test_an_exported_onnx_contains_its_manifest(artifacts: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    shutil.copy(artifacts["onnx"], alone)
    beside = read_manifest(artifacts["onnx"])
    assert inspect_file(alone).manifest == beside.model_copy(update={"source": SourceRecord()})
    assert inspect_file(alone).manifest.parity.passed
    graph = inspect_file(alone).graph
    assert graph.opsets == {"ai.onnx": 20}
    assert [(spec.name, spec.dtype, spec.shape) for spec in graph.inputs] == [
        ("images", "float32", ("batch", 3, "height", "width"))
    ]
    assert graph.remarks == ()


def test_an_onnx_of_another_tool(third_party_onnx: Path) -> None:
    file_info = inspect_file(third_party_onnx)
    assert (file_info.kind, file_info.manifest) == ("ONNX of another tool", None)
    graph = file_info.graph
    assert (graph.producer, graph.opsets) == ("theirs 2", {"ai.onnx": 18, "com.microsoft": 1})
    assert graph.parameters == {"float16": 12, "int8": 10, "float32": 4}
    assert graph.operators["Resize"] == graph.operators["com.microsoft::FastGelu"] == 1
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*graph.inputs, *graph.outputs)] == [
        ("x", "float32", (1, 3, 8, 8)),
        ("y", "float16", (1, 4, "rows", "?")),
    ]
    assert [word for remark in graph.remarks for word in remark.split(",")[0].split(" (")[:1]] == [
        "1 antialiased Resize",
        "dynamic quantization",
        "operators of com.microsoft",
        "fp16 weights",
        "int8 weights",
        "no dynamic axes: the graph takes one shape alone",
    ]
    table = call(third_party_onnx)
    assert "1 antialiased Resize, which TensorRT rejects" in table
    assert "x  float32 (1, 3, 8, 8)" in table
    assert json.loads(call(third_party_onnx, "--json"))["graph"]["inputs"][0]["shape"] == [1, 3, 8, 8]


def test_an_onnx_of_another_tool_with_external_weights(third_party_onnx: Path) -> None:
    model = onnx.load(third_party_onnx)
    onnx.save(model, third_party_onnx, save_as_external_data=True, location="weights.bin", size_threshold=0)
    manifest_path(third_party_onnx).write_text('{"voice": "of another tool"}')
    file_info = inspect_file(third_party_onnx)
    assert file_info.graph.external == ("weights.bin",)
    assert file_info.manifest is None
    assert file_info.size == third_party_onnx.stat().st_size + (third_party_onnx.parent / "weights.bin").stat().st_size
    (third_party_onnx.parent / "weights.bin").unlink()
    assert "weights.bin, which holds weights, is missing" in inspect_file(third_party_onnx).graph.remarks


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.ts", "encoder.xml", "encoder.bin", "encoder.safetensors"])
def test_a_truncated_file_is_reported(name: str, artifacts: dict[str, Path], run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(run, folder)
    damaged, opened = folder / name, folder / name.replace(".bin", ".xml")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"encoder\.(onnx|ts|xml|bin|safetensors) is .*; export it or copy it again"):
        inspect_file(opened)
    damaged.write_bytes(b"")
    with pytest.raises(ValueError, match="; export it or copy it again"):
        inspect_file(opened)


def test_unknown_files_are_rejected_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "notes.onnx").write_text("hello")
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    for name, words in (
        ("nothing.onnx", "does not exist; name an exported file"),
        ("notes.txt", "is damaged or not a checkpoint"),
        ("notes.onnx", "is not"),
        (".", "name the file itself"),
        ("unfinished", "gtsa train --resume"),
    ):
        with pytest.raises(ValueError, match=words):
            inspect_file(tmp_path / name)


def test_weights_of_another_tool_are_described_with_what_was_assumed(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "encoder.safetensors", tmp_path / "model.safetensors")
    printed = json.loads(call(tmp_path / "model.safetensors", "--heads", 4, "--mean", "0.5,0.5,0.5", "--json"))
    assert printed["kind"] == "weights of another tool (timm)"
    assert printed["encoder"]["architecture"]["heads"] == 4
    assert printed["encoder"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert printed["note"] == (
        "the only encoder; embedding: the class token, as timm's own call; assumed: std of ImageNet, positions "
        "resampled as by timm"
    )
    assert "assumed: 2 heads, mean and std of ImageNet" in call(tmp_path / "model.safetensors")
    for own in (run, run / "encoder.safetensors"):
        with pytest.raises(ValueError, match="states its preprocessing and its architecture; omit --heads"):
            inspect_file(own, ImportOptions(heads=4))
