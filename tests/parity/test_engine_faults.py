"""Faults injected into graphs, engines and manifests: each is reported with its position in the file and a hint."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import helper, numpy_helper

from gtsa_kit.cli.export import export
from gtsa_kit.cli.info import info
from gtsa_kit.cli.verify import verify
from gtsa_kit.export import load
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.runtime.profile import Profile
from gtsa_kit.export.runtime.tensorrt_runner import check_file
from gtsa_kit.export.runtime.tensorrt_variant import import_variant
from gtsa_kit.export.tensorrt.build import BuildSettings, EngineBuildError, build_engine
from gtsa_kit.export.triton.config import ServingOptions
from gtsa_kit.export.triton.models import repository_models
from gtsa_kit.export.triton.repository import write_repository
from gtsa_kit.files import sha256_of

pytestmark = pytest.mark.usefixtures("traces")

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")


@pytest.fixture(scope="module")
def built(tiny_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an engine, the files beside it, and the weights."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(tiny_run, folder, dirs_exist_ok=True)
    export(folder, format_name="trt", precision="fp32", max_size="64", batch="1:2:4", images=few, gpu="8.6,8.9")
    return folder


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """Return a copy of the engine that a test may damage."""
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy" / "encoder.engine"


def load_graph(path: Path) -> onnx.ModelProto:
    return onnx.load(path.with_name("encoder.engine.onnx"))


def rejection(capsys: pytest.CaptureFixture[str], graph: Path, **options: object) -> str:
    """Return the error message of a dry run that rejects a graph."""
    capsys.readouterr()  # torch.onnx prints its steps
    with pytest.raises(SystemExit) as stopped:
        export(graph, format_name="trt", dry_run=True, as_json=True, **options)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["passed"], result["artifacts"]) == (False, [])
    assert result["problems"]
    return " ".join(printed.err.split())


def test_an_antialiased_resize_is_named(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_graph(engine)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "ones"))
    node = helper.make_node("Resize", ["images", "", "ones"], ["resized"], "put_back", mode="cubic", antialias=1)
    for other in model.graph.node:
        other.input[:] = ["resized" if name == "images" and other.op_type == "Conv" else name for name in other.input]
    model.graph.node.insert(0, node)
    graph = engine.with_name("resize.onnx")
    onnx.save(model, graph)
    message = rejection(capsys, graph)
    assert "put_back" in message
    assert "antialiased Resize" in message
    assert "gtsa export writes a graph without" in message


def test_dynamic_quantization_is_named_with_its_layer(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_graph(engine)
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    softmax = model.graph.node[at]
    rounded = helper.make_node("DynamicQuantizeLinear", [softmax.input[0]], ["q", "s", "z"], "injected")
    rounded.metadata_props.extend(softmax.metadata_props)
    back = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["back"], "injected_back")
    softmax.input[0] = "back"
    model.graph.node.insert(at, back)
    model.graph.node.insert(at, rounded)
    graph = engine.with_name("dynamic.onnx")
    onnx.save(model, graph)
    message = rejection(capsys, graph)
    assert "injected" in message
    assert "of blocks.0" in message
    assert "--precision int8 --calibrate" in message


def test_a_zero_point_that_is_not_zero_is_named(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_graph(engine)
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Gelu")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(3), "zero"))
    gelu = model.graph.node[at]
    before, gelu.input[0] = gelu.input[0], "back"
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["back"], "dq"))
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [before, "step", "zero"], ["q"], "crooked"))
    graph = engine.with_name("asymmetric.onnx")
    onnx.save(model, graph)
    message = rejection(capsys, graph)
    assert "crooked" in message
    assert "zero point" in message


def test_an_unknown_operator_is_named_with_its_layer(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_graph(engine)
    gelu = [node for node in model.graph.node if node.op_type == "Gelu"][1]
    gelu.op_type, gelu.domain = "FancyGelu", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    graph = engine.with_name("unknown.onnx")
    onnx.save(model, graph)
    message = rejection(capsys, graph)
    assert "FancyGelu" in message
    assert "com.example" in message
    assert "of blocks.1.mlp.act" in message


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Return a function that exports a small ViT of timm by the PyTorch exporter, with a fixed or a dynamic size."""
    folder = tmp_path_factory.mktemp("third_party")

    def make(any_size: bool) -> Path:
        path = folder / f"{any_size}.onnx"
        if not path.exists():
            model = timm.models.VisionTransformer(
                img_size=64, embed_dim=64, depth=1, num_heads=2, dynamic_img_size=any_size, num_classes=0
            ).eval()
            batch, side = torch.export.Dim("batch"), 16 * torch.export.Dim("patches", min=2, max=32)
            axes = {0: batch, 2: side, 3: side} if any_size else {0: batch}
            images = torch.zeros(2, 3, *((96, 96) if any_size else (64, 64)))
            torch.onnx.export(model, (images,), path, dynamo=True, dynamic_shapes=(axes,))
        return path

    return make


def test_a_dynamic_vit_of_another_tool_is_rejected_with_a_hint(
    third_party: Callable[[bool], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    message = rejection(capsys, third_party(True), max_size="128")
    assert "Resize" in message
    assert "gtsa export writes a graph without" in message


def test_a_fixed_size_vit_of_another_tool_builds_as_it_is(
    third_party: Callable[[bool], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = third_party(False)
    before = set(graph.parent.iterdir())
    capsys.readouterr()  # torch.onnx prints its steps
    export(graph, format_name="trt", dry_run=True, as_json=True)
    assert set(graph.parent.iterdir()) == before, "a dry run keeps no files"
    dry = json.loads(capsys.readouterr().out)
    assert (dry["passed"], dry["problems"], dry["artifacts"]) == (True, [], [])
    assert dry["tensors"][0] == ["x", "float", [-1, 3, 64, 64]]
    engine = tmp_path / "vit.engine"
    export(graph, format_name="trt", batch="1:2:8", out=engine, as_json=True)
    manifest = read_manifest(engine)
    printed = capsys.readouterr()
    (artifact,) = json.loads(printed.out)["artifacts"]
    assert (artifact["path"], artifact["passed"]) == (str(engine), None)  # nothing to compare with
    assert artifact["manifest"] == manifest.model_dump(mode="json")
    assert manifest.engine.profile == ((1, 3, 64, 64), (2, 3, 64, 64), (8, 3, 64, 64))
    assert manifest.engine.graph.parity is None
    assert "no float32 encoder" in " ".join(printed.err.split())
    verify(engine)
    with pytest.raises(ValueError, match="omit --precision"):
        export(graph, format_name="trt", precision="fp16", dry_run=True)
    with pytest.raises(ValueError, match="has a fixed height of 64, got 96; omit --size"):
        export(graph, format_name="trt", size="96", dry_run=True)


def test_files_that_are_no_graph_of_images_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(b"\x08\x0a nothing")
    with pytest.raises(ValueError, match="not a"):
        export(tmp_path / "half.onnx", format_name="trt", dry_run=True)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        *("g", [value("x", onnx.TensorProto.FLOAT, [1, 8])], [value("y", onnx.TensorProto.FLOAT, [1, 8])]),
    )
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="does not take a batch of images"):
        export(tmp_path / "other.onnx", format_name="trt", dry_run=True)


# Edits of a manifest, each with a word of the message that reports it.
EDITS: dict[str, tuple[Callable[[dict], None], str]] = {
    "profile": (lambda m: m["engine"]["profile"][2].__setitem__(0, 32), "profile"),
    "optimal shape": (lambda m: m["engine"]["profile"][1].__setitem__(2, 32), "profile"),
    "range": (lambda m: m["axes"]["height"].__setitem__("max", 512), "height"),
    "version": (lambda m: m["engine"].__setitem__("version", "1.2.3.4"), "1.2.3.4"),
    "variant": (lambda m: m["engine"].__setitem__("variant", "tensorrt"), "tensorrt"),
    "GPUs": (lambda m: m["engine"].__setitem__("capabilities", ["8.9", "9.0"]), "9.0"),
    "output": (lambda m: m["outputs"][0].__setitem__("name", "pooled"), "pooled"),
    "type": (lambda m: m["outputs"][1].__setitem__("dtype", "float16"), "tensors"),
    "hash": (lambda m: m.__setitem__("content_sha256", "0" * 64), "sha256"),
    "graph's hash": (lambda m: m["engine"]["graph"].__setitem__("sha256", "0" * 64), "from another file than"),
    "precision": (lambda m: m.__setitem__("precision", "fp16"), "precision fp16"),
    "mean": (lambda m: m["preprocessing"]["mean"].__setitem__(0, 0.5), "preprocessing"),
    "weights": (lambda m: m.__setitem__("source_sha256", "f" * 64), "source_sha256"),
    "parity": (lambda m: m["engine"]["graph"]["parity"].__setitem__("images", "others"), "the parity of the graph"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_is_detected(
    edit: str, engine: Path, tiny_run: Path, few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, word = EDITS[edit]
    manifest = json.loads(manifest_path(engine).read_text())
    change(manifest)
    manifest_path(engine).write_text(json.dumps(manifest))
    with pytest.raises(SystemExit) as stopped:
        verify(engine, against=tiny_run, images=few)
    assert stopped.value.code == 1
    assert word in " ".join(capsys.readouterr().err.split())


def test_a_valid_engine_passes_and_reports_what_a_gpu_would_add(
    engine: Path, few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(engine, images=few)
    message = " ".join(capsys.readouterr().err.split())
    assert "FAILED" not in message
    if not torch.cuda.is_available():
        assert message.endswith("gtsa verify also runs it and compares its outputs with the float32 encoder")
    verify(engine, images=few, as_json=True)
    assert json.loads(capsys.readouterr().out)["passed"]


def test_an_engine_is_verified_away_from_its_run(
    engine: Path, built: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Find the weights by the manifest; without them, check what needs none."""
    away = tmp_path / "away" / engine.name
    away.parent.mkdir()
    for file in engine.parent.glob("encoder.engine*"):
        shutil.copy(file, away.parent)
    verify(away, images=few)
    assert "min cosine" in capsys.readouterr().err, "the weights are still where the manifest says"
    model = onnx.load(away.with_name("encoder.engine.onnx"))
    manifest = json.loads(manifest_path(away).read_text())
    manifest["source"] |= {"path": "/nowhere/encoder.safetensors", "relative": ""}
    manifest_path(away).write_text(json.dumps(manifest))
    away.with_name("encoder.engine.onnx").unlink()  # it holds the weights too
    verify(away, images=few)
    message = " ".join(capsys.readouterr().err.split())
    assert "not compared with the float32 encoder: the weights that" in message
    assert "looked at /nowhere/encoder.safetensors" in message
    assert "FAILED" not in message
    assert model.graph.node
    verify(away, images=few, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"]
    assert printed["graph_parity"] is None
    assert "name them with --against" in printed["not_checked"]


def test_a_graph_with_other_weights_is_detected(engine: Path, few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = engine.with_name("encoder.engine.onnx")
    model = onnx.load(graph)
    biggest = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
    biggest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(biggest) * 1.01, biggest.name))
    onnx.save(model, graph)
    with pytest.raises(SystemExit):
        verify(engine, images=few)
    message = " ".join(capsys.readouterr().err.split())
    assert "from another file than" in message
    assert "FAILED" in message
    graph.unlink()
    verify(engine, images=few)  # what is missing did not fail
    assert "not checked: encoder.engine.onnx is not beside the engine" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("keep", [0, 3, 40, 64, 0.5, -1])
def test_a_truncated_engine_is_rejected(keep: float, engine: Path, few: Path) -> None:
    content = engine.read_bytes()
    engine.write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    for read in (lambda: verify(engine, images=few), lambda: info(engine), lambda: load(engine)):
        with pytest.raises(ValueError, match=r"empty|beginning of one|its header says"):
            read()


def test_a_flipped_byte_is_detected(engine: Path, few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    with pytest.raises(SystemExit):
        verify(engine, images=few)
    assert "sha256 differs" in " ".join(capsys.readouterr().err.split())


def test_an_engine_of_another_version_reports_both_versions_and_the_command(engine: Path, few: Path) -> None:
    """Simulate an engine of another version: file and manifest agree, the installed library differs."""
    installed = read_manifest(engine).engine.version
    content = bytearray(engine.read_bytes())
    content[24] += 1
    engine.write_bytes(content)
    built_by = ".".join(str(number) for number in content[24:28])
    manifest = json.loads(manifest_path(engine).read_text())
    manifest["engine"] |= {"version": built_by}
    manifest["content_sha256"] = sha256_of(engine)
    manifest_path(engine).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="build it for this machine") as rejected:
        check_file(engine, read_manifest(engine))
    assert installed in str(rejected.value)
    assert built_by in str(rejected.value)
    with pytest.raises(SystemExit):
        verify(engine, images=few)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where the engine opens")
def test_without_a_gpu_the_runner_gives_a_hint(engine: Path) -> None:
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*; gtsa verify"):
        load(engine)


def test_info_reads_engines_with_and_without_a_manifest(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(engine)
    message = capsys.readouterr().out
    for word in ("tensorrt-rtx", "8.6, 8.9", "1x3x16x16", "not run: no GPU", "encoder.engine.onnx"):
        assert word in message or torch.cuda.is_available()
    manifest_path(engine).unlink()
    info(engine, as_json=True)
    described = json.loads(capsys.readouterr().out)
    assert described["kind"] == "TensorRT engine without a manifest"
    assert described["header"]["capabilities"] == ["8.6", "8.9"]


# --- where the culprit lies ---------------------------------------------------------------------------------------


def resize(source: str, target: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Resize", [source, "", "scales"], [target], name, mode="cubic", antialias=1)


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.layers", 1)]
    return helper.make_function("my.layers", name, ["x", "scales"], ["y"], nodes, opsets)


def call(name: str, source: str, target: str) -> onnx.NodeProto:
    return helper.make_node(name, [source, "scales"], [target], f"call_{name}", domain="my.layers")


def branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)])


RELU = helper.make_node("Relu", ["x"], ["y"], "relu")
ACT, UP = function("Act", [RELU]), function("Up", [resize("x", "y", "inner")])
OUTER = function("Outer", [helper.make_node("Relu", ["x"], ["r"], "relu"), call("Up", "r", "y")])
NONZERO = function("Find", [helper.make_node("NonZero", ["x"], ["y"], "inner")])
IF = [
    helper.make_node("Shape", ["images"], ["shape"]),
    helper.make_node("Gather", ["shape", "two"], ["height"]),
    helper.make_node("Greater", ["height", "limit"], ["is_large"]),
    helper.make_node(
        "If",
        ["is_large"],
        ["out"],
        "the_if",
        then_branch=branch([resize("map", "then", "inner")], "then"),
        else_branch=branch([helper.make_node("Relu", ["map"], ["else"])], "else"),
    ),
]
# Nodes after the convolution, functions, and the problem; "" if TensorRT builds the graph.
POSITIONS: dict[str, tuple[list[onnx.NodeProto], list[onnx.FunctionProto], str]] = {
    "a function that builds": ([call("Act", "map", "out")], [ACT], ""),
    "beside a function that builds": (
        [call("Act", "map", "a"), resize("a", "out", "top")],
        [ACT],
        "Resize 'top': an antialiased Resize",
    ),
    "in a function": ([call("Up", "map", "out")], [UP], "Resize 'inner' in function Up of 'call_Up': an antialiased"),
    "in a function of a function": (
        [call("Outer", "map", "out")],
        [UP, OUTER],
        "Resize 'inner' in function Up of 'call_Up' in function Outer of 'call_Outer': an antialiased",
    ),
    "an operator that TensorRT lacks, in a function": (
        [call("Find", "map", "out")],
        [NONZERO],
        "NonZero 'inner' in function Find of 'call_Find': TensorRT does not have this operator",
    ),
    "in a branch": (IF, [], "Resize 'inner' in then_branch of 'the_if': an antialiased Resize"),
    "a function that is missing": ([call("Act", "map", "out")], [], "Act 'call_Act': an operator of my.layers"),
}


@pytest.mark.parametrize("position", POSITIONS)
def test_the_true_culprit_is_named_wherever_it_lies(
    position: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, functions, problem = POSITIONS[position]
    constants = {
        "kernel": np.ones((8, 3, 16, 16), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "two": np.array(2),
        "limit": np.array(100),
    }
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "kernel"], ["map"], "conv", strides=[16, 16]), *nodes],
        "g",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.layers", 1)]
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9), path)
    if not problem:
        export(path, format_name="trt", dry_run=True, max_size="64")
        return
    message = rejection(capsys, path, max_size="64")
    assert f"TensorRT rejects g.onnx: {problem}" in message
    assert "more nodes" not in message


def test_a_builder_is_freed_with_its_failed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that waits for the garbage collector could be freed while the library logs, and block there forever."""
    library = import_variant("tensorrt-rtx").library
    make, builders = library.Builder, []

    def make_recorded(logger: object) -> object:
        builder = make(logger)
        builders.append(weakref.ref(builder))
        return builder

    monkeypatch.setattr(library, "Builder", make_recorded)
    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["images"], ["out"], "culprit")],
        "g",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    profile = Profile(*[(1, 3, 16, 16)] * 3)
    gc.disable()
    try:
        with pytest.raises(EngineBuildError) as caught:
            build_engine(import_variant("tensorrt-rtx"), model, "g", profile, BuildSettings(()), tmp_path / "log")
        assert builders
        assert [builder() for builder in builders] == [None] * len(builders), caught.value
    finally:
        gc.enable()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "kernel"], ["out"], strides=[16, 16])],
        "g",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((8, 3, 16, 16), np.float32), "kernel")],
    )
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="g.data", size_threshold=0)
    (tmp_path / "g.data").unlink()
    with pytest.raises(ValueError, match=r"the weights of \S+g\.onnx are in g\.data, which is missing; copy it beside"):
        export(path, format_name="trt", dry_run=True)


def test_an_engine_in_a_triton_repository_is_checked_as_any_engine(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton runs no engine of this variant; its checks without a GPU are the same."""
    models = repository_models(engine, open_manifest(engine).manifest, ServingOptions())
    (folder,) = write_repository(tmp_path / "models", models)
    verify(folder, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    names = [check["name"] for check in result["checks"]]
    assert names[0] == "content"
    assert {"header", "hash", "GPUs", "tensors"} <= set(names)
    for words in ("the engine itself was not run", "not run in a Triton server"):
        assert words in result["not_checked"]
    with pytest.raises(ValueError, match="omit --provider"):
        verify(folder, provider="cpu")
