"""Faults planted in graphs, engines and manifests: each is named, with a way out."""

import json
import shutil
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
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.runtime.tensorrt_runner import check_file
from gtsa_kit.files import sha256_of

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")


@pytest.fixture(scope="module")
def built(tiny_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine and what lies beside it, and the weights."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(tiny_run, folder, dirs_exist_ok=True)
    export(folder, form="trt", precision="fp32", max_size="64", batch="1:2:4", images=few, gpu="8.6,8.9")
    return folder


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A copy, to break."""
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy" / "encoder.engine"


def plain(path: Path) -> onnx.ModelProto:
    return onnx.load(path.with_name("encoder.engine.onnx"))


def refused(capsys: pytest.CaptureFixture[str], graph: Path, **options: object) -> str:
    """What a dry run says against a graph."""
    with pytest.raises(SystemExit) as stopped:
        export(graph, form="trt", dry_run=True, **options)
    assert stopped.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_a_resize_put_back_is_named(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = plain(engine)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "ones"))
    node = helper.make_node("Resize", ["images", "", "ones"], ["resized"], "put_back", mode="cubic", antialias=1)
    for other in model.graph.node:
        other.input[:] = ["resized" if name == "images" and other.op_type == "Conv" else name for name in other.input]
    model.graph.node.insert(0, node)
    graph = engine.with_name("resize.onnx")
    onnx.save(model, graph)
    said = refused(capsys, graph)
    assert "put_back" in said
    assert "antialiased Resize" in said
    assert "gtsa export writes a graph without" in said


def test_dynamic_quantization_is_named_with_its_layer(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = plain(engine)
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    softmax = model.graph.node[at]
    rounded = helper.make_node("DynamicQuantizeLinear", [softmax.input[0]], ["q", "s", "z"], "planted")
    rounded.metadata_props.extend(softmax.metadata_props)
    back = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["back"], "planted_back")
    softmax.input[0] = "back"
    model.graph.node.insert(at, back)
    model.graph.node.insert(at, rounded)
    graph = engine.with_name("dynamic.onnx")
    onnx.save(model, graph)
    said = refused(capsys, graph)
    assert "planted" in said
    assert "of blocks.0" in said
    assert "--precision int8 --calibrate" in said


def test_a_zero_point_that_is_not_zero_is_named(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = plain(engine)
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Gelu")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(3), "zero"))
    gelu = model.graph.node[at]
    before, gelu.input[0] = gelu.input[0], "back"
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["back"], "dq"))
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [before, "step", "zero"], ["q"], "crooked"))
    graph = engine.with_name("asymmetric.onnx")
    onnx.save(model, graph)
    said = refused(capsys, graph)
    assert "crooked" in said
    assert "zero point" in said


def test_an_unknown_operator_is_named_with_its_layer(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = plain(engine)
    gelu = [node for node in model.graph.node if node.op_type == "Gelu"][1]
    gelu.op_type, gelu.domain = "FancyGelu", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    graph = engine.with_name("unknown.onnx")
    onnx.save(model, graph)
    said = refused(capsys, graph)
    assert "FancyGelu" in said
    assert "com.example" in said
    assert "of blocks.1.act" in said


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A small ViT of timm's as timm's users export it: of a fixed size, or of any."""
    folder = tmp_path_factory.mktemp("foreign")

    def make(any_size: bool) -> Path:
        path = folder / f"{any_size}.onnx"
        if not path.exists():
            model = timm.models.VisionTransformer(
                img_size=64, embed_dim=64, depth=1, num_heads=2, dynamic_img_size=any_size, num_classes=0
            ).eval()
            batch, side = torch.export.Dim("batch"), 16 * torch.export.Dim("cells", min=2, max=32)
            axes = {0: batch, 2: side, 3: side} if any_size else {0: batch}
            images = torch.zeros(2, 3, *((96, 96) if any_size else (64, 64)))
            torch.onnx.export(model, (images,), path, dynamo=True, dynamic_shapes=(axes,))
        return path

    return make


def test_anybodys_vit_of_any_size_is_refused_with_the_way_out(
    foreign: Callable[[bool], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, foreign(True), max_size="128")
    assert "Resize" in said
    assert "gtsa export writes a graph without" in said


def test_anybodys_vit_of_a_fixed_size_builds_as_it_is(
    foreign: Callable[[bool], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = foreign(False)
    before = set(graph.parent.iterdir())
    export(graph, form="trt", dry_run=True)
    assert set(graph.parent.iterdir()) == before, "a dry run keeps nothing"
    engine = tmp_path / "vit.engine"
    export(graph, form="trt", batch="1:2:8", out=engine)
    manifest = read_manifest(engine)
    assert manifest.engine.profile == ((1, 3, 64, 64), (2, 3, 64, 64), (8, 3, 64, 64))
    assert manifest.engine.graph.parity is None
    assert "no float32 encoder" in " ".join(capsys.readouterr().err.split())
    verify(engine)
    with pytest.raises(ValueError, match="leave out --precision"):
        export(graph, form="trt", precision="fp16", dry_run=True)
    with pytest.raises(ValueError, match="smallest shape asked for"):
        export(graph, form="trt", size="96", dry_run=True)


def test_what_is_no_graph_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(b"\x08\x0a nothing")
    with pytest.raises(ValueError, match="not a"):
        export(tmp_path / "half.onnx", form="trt", dry_run=True)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        *("g", [value("x", onnx.TensorProto.FLOAT, [1, 8])], [value("y", onnx.TensorProto.FLOAT, [1, 8])]),
    )
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="does not take a batch of images"):
        export(tmp_path / "other.onnx", form="trt", dry_run=True)


# Edits of a manifest, each with a word of what is said of it.
EDITS: dict[str, tuple[Callable[[dict], None], str]] = {
    "profile": (lambda m: m["engine"]["profile"][2].__setitem__(0, 32), "profile"),
    "usual shape": (lambda m: m["engine"]["profile"][1].__setitem__(2, 32), "profile"),
    "range": (lambda m: m["axes"]["height"].__setitem__("max", 512), "height"),
    "version": (lambda m: m["engine"].__setitem__("version", "1.2.3.4"), "1.2.3.4"),
    "variant": (lambda m: m["engine"].__setitem__("variant", "tensorrt"), "tensorrt"),
    "GPUs": (lambda m: m["engine"].__setitem__("capabilities", ["8.9", "9.0"]), "9.0"),
    "output": (lambda m: m["outputs"][0].__setitem__("name", "pooled"), "pooled"),
    "type": (lambda m: m["outputs"][1].__setitem__("dtype", "float16"), "tensors"),
    "hash": (lambda m: m["engine"].__setitem__("sha256", "0" * 64), "sha256"),
    "graph's hash": (lambda m: m["engine"]["graph"].__setitem__("sha256", "0" * 64), "another than it was built from"),
    "precision": (lambda m: m.__setitem__("precision", "fp16"), "precision fp16"),
    "mean": (lambda m: m["preprocessing"]["mean"].__setitem__(0, 0.5), "preprocessing"),
    "weights": (lambda m: m.__setitem__("source_sha256", "f" * 64), "source_sha256"),
    "parity": (lambda m: m["engine"]["graph"]["parity"].__setitem__("images", "others"), "the parity of the graph"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_shows(
    edit: str, engine: Path, tiny_run: Path, few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, word = EDITS[edit]
    said = json.loads(manifest_path(engine).read_text())
    change(said)
    manifest_path(engine).write_text(json.dumps(said))
    with pytest.raises(SystemExit) as stopped:
        verify(engine, against=tiny_run, images=few)
    assert stopped.value.code == 1
    assert word in " ".join(capsys.readouterr().err.split())


def test_a_sound_engine_passes_and_says_what_is_left(
    engine: Path, few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(engine, images=few)
    said = " ".join(capsys.readouterr().err.split())
    assert "FAILED" not in said
    if not torch.cuda.is_available():
        assert said.endswith("gtsa verify also runs it and compares its outputs with the float32 encoder")
    verify(engine, images=few, as_json=True)
    assert json.loads(capsys.readouterr().out)["passed"]


def test_a_graph_of_other_weights_shows(engine: Path, few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = engine.with_name("encoder.engine.onnx")
    model = onnx.load(graph)
    largest = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * 1.01, largest.name))
    onnx.save(model, graph)
    with pytest.raises(SystemExit):
        verify(engine, images=few)
    said = " ".join(capsys.readouterr().err.split())
    assert "another than it was built from" in said
    assert "FAILED" in said
    graph.unlink()
    with pytest.raises(SystemExit):
        verify(engine, images=few)
    assert "not beside it" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("keep", [0, 3, 40, 64, 0.5, -1])
def test_a_truncated_engine_is_refused(keep: float, engine: Path, few: Path) -> None:
    content = engine.read_bytes()
    engine.write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    for look in (lambda: verify(engine, images=few), lambda: info(engine), lambda: load(engine)):
        with pytest.raises(ValueError, match=r"empty|beginning of one|its header says"):
            look()


def test_a_flipped_byte_shows(engine: Path, few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    with pytest.raises(SystemExit):
        verify(engine, images=few)
    assert "sha256 differs" in " ".join(capsys.readouterr().err.split())


def test_another_versions_engine_says_both_versions_and_the_command(engine: Path, few: Path) -> None:
    """As if it had been built by another version: file and manifest agree, what is installed differs."""
    here = read_manifest(engine).engine.version
    content = bytearray(engine.read_bytes())
    content[24] += 1
    engine.write_bytes(content)
    there = ".".join(str(number) for number in content[24:28])
    said = json.loads(manifest_path(engine).read_text())
    said["engine"] |= {"version": there, "sha256": sha256_of(engine)}
    manifest_path(engine).write_text(json.dumps(said))
    with pytest.raises(ValueError, match="build it for this machine") as refused:
        check_file(engine, read_manifest(engine))
    assert here in str(refused.value)
    assert there in str(refused.value)
    with pytest.raises(SystemExit):
        verify(engine, images=few)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where the engine opens")
def test_without_a_gpu_the_runner_says_what_can_be_done(engine: Path) -> None:
    with pytest.raises(ValueError, match="there is none here; gtsa verify"):
        load(engine)


def test_info_reads_any_engine(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(engine)
    said = capsys.readouterr().out
    for word in ("tensorrt-rtx", "8.6, 8.9", "1x3x16x16", "not run: no GPU", "encoder.engine.onnx"):
        assert word in said or torch.cuda.is_available()
    manifest_path(engine).unlink()
    info(engine, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "TensorRT engine without a manifest"
    assert found["header"]["capabilities"] == ["8.6", "8.9"]
