"""Reports are bound to their file: whatever changes a file or its manifest afterwards leaves it without a report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from gtsa_kit.cli.support import gate_again
from gtsa_kit.export import Runner, load
from gtsa_kit.export.formats import content
from gtsa_kit.export.formats.content import ReportWarning, open_manifest
from gtsa_kit.export.formats.onnx_digest import model_digest
from gtsa_kit.export.inspect_file import inspect_file
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.reference import missing_reference, open_reference
from gtsa_kit.export.self_check import self_check
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions, Range

pytestmark = pytest.mark.usefixtures("traces")

# --- the digest -----------------------------------------------------------------------------------------------------


def small_model() -> onnx.ModelProto:
    """Return a model with a function, a branch, a constant inside a node, and weights of several types."""
    value, boolean = helper.make_tensor_value_info, TensorProto.BOOL
    constant = numpy_helper.from_array(np.float32([2, 3]), "two")
    branches = [
        helper.make_graph([helper.make_node(op, ["x", "w"], ["z"])], op, [], [value("z", TensorProto.FLOAT, (2,))])
        for op in ("Add", "Sub")
    ]
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Twice", ["y"], ["t"], domain="local"),
        helper.make_node("Clip", ["t", "low"], ["u"], "clip"),
        helper.make_node("Mul", ["u", "c"], ["out"]),
    ]
    twice = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    weights = [numpy_helper.from_array(np.float32([1, 2]), "w"), numpy_helper.from_array(np.float32(0), "low")]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, (2,)), value("flag", boolean, ())],
        [value("out", TensorProto.FLOAT, (2,))],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[twice])


def rename(model: onnx.ModelProto) -> None:
    model.graph.name, model.producer_name, model.doc_string, model.ir_version = "h", "other", "text", 9
    model.metadata_props.add(key="a", value="b")
    for node in model.graph.node:
        node.name, node.doc_string = f"n_{node.op_type}", "text"


def reorder(model: onnx.ModelProto) -> None:
    for field in (model.graph.node, model.graph.initializer, model.opset_import, model.graph.node[1].attribute):
        items = [type(item).FromString(item.SerializeToString()) for item in field]
        del field[:]
        field.extend(reversed(items))


def store_as_numbers(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).ravel()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values)


SAME = {"names and metadata": rename, "order": reorder, "another field for weights": store_as_numbers}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_digest_ignores_what_computes_nothing(change: Callable[[onnx.ModelProto], None]) -> None:
    model = small_model()
    before = model_digest(model)
    content_before = model.SerializeToString()
    change(model)
    assert model.SerializeToString() != content_before
    assert model_digest(model) == before
    onnx.checker.check_model(small_model())


def test_weights_in_a_file_beside_the_model_have_the_same_digest(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").stat().st_size > 0
    assert content.content_digest(path) == model_digest(small_model())
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "m.data").write_bytes(data)
    assert content.content_digest(path) != model_digest(small_model())


def _flip(tensor: onnx.TensorProto) -> None:
    raw = bytearray(tensor.raw_data)
    raw[0] ^= 1
    tensor.raw_data = bytes(raw)


def _swap(node: onnx.NodeProto) -> None:
    node.input[:] = list(node.input)[::-1]


DIFFERENT: dict[str, Callable[[onnx.ModelProto], object]] = {
    "one bit of a weight": lambda m: _flip(m.graph.initializer[0]),
    "one bit of a constant": lambda m: _flip(m.graph.node[0].attribute[0].t),
    "an operator": lambda m: setattr(m.graph.node[4], "op_type", "Div"),
    "a domain": lambda m: setattr(m.graph.node[3], "domain", "com.microsoft"),
    "the order of inputs of a node": lambda m: _swap(m.graph.node[4]),
    "an operator in a branch": lambda m: setattr(m.graph.node[1].attribute[0].g.node[0], "op_type", "Mul"),
    "an operator in a function": lambda m: setattr(m.functions[0].node[0], "op_type", "Mul"),
    "the opset": lambda m: setattr(m.opset_import[0], "version", 17),
    "the shape of a weight": lambda m: m.graph.initializer[0].dims.insert(0, 1),
    "the name of an output": lambda m: setattr(m.graph.output[0], "name", "u"),
    "a node less": lambda m: m.graph.node.pop(),
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_the_digest_sees_every_change_of_the_result(change: Callable[[onnx.ModelProto], object]) -> None:
    model = small_model()
    change(model)
    assert model_digest(model) != model_digest(small_model())


# --- ONNX files that another tool changed ---------------------------------------------------------------------------


def cut_residual(model: onnx.ModelProto) -> None:
    """Replace the last sum of two activations by one of them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    node = [n for n in model.graph.node if n.op_type == "Add" and not weights.intersection(n.input)][-1]
    node.op_type = "Identity"
    del node.input[1]


def insert_identity(model: onnx.ModelProto) -> None:
    """Change the graph and not its result, as a converter of versions does."""
    position, node = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Gelu")
    model.graph.node.insert(position, helper.make_node("Identity", [node.input[0]], ["same"]))
    model.graph.node[position + 1].input[0] = "same"


def scale_weight(model: onnx.ModelProto) -> None:
    biggest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    biggest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(biggest) * np.float32(1.05), biggest.name))


def rename_weights(model: onnx.ModelProto) -> None:
    names = {tensor.name: f"renamed_{i}" for i, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


@pytest.fixture(scope="module")
def alone(tiny_run: Path, scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX file for small images, without the weights and the manifest beside it."""
    path = tmp_path_factory.mktemp("alone") / "encoder.onnx"
    options = ExportOptions(height=Range(32, 48), width=Range(32, 48), batch=Range(1, 2))
    run = path.parent / "run"
    shutil.copytree(tiny_run, run)
    export_artifact(open_source(run), "onnx", path, options, scenes)
    shutil.rmtree(run)
    manifest_path(path).unlink()
    return path


@pytest.fixture
def changed(tiny_onnx: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that changes a copy of an ONNX file and keeps its metadata."""

    def change(edit: Callable[[onnx.ModelProto], None], source: Path = tiny_onnx) -> Path:
        model = onnx.load(source)
        edit(model)
        path = tmp_path / f"{edit.__name__}.onnx"
        onnx.save(model, path)
        return path

    return change


@pytest.mark.parametrize("edit", [cut_residual, insert_identity, scale_weight, rename_weights])
def test_a_changed_graph_has_no_report(edit: Callable[[onnx.ModelProto], None], changed, tiny_onnx: Path) -> None:
    assert open_manifest(tiny_onnx).manifest.parity.passed
    path = changed(edit)
    opened = open_manifest(path)
    assert (opened.problem, opened.manifest.parity) == (content.CHANGED, None)
    assert inspect_file(path).report_problem == content.CHANGED
    with pytest.warns(ReportWarning, match=rf"{path.name} has no parity report: the file was changed .*gtsa verify"):
        runner = load(path, "cpu")
    assert runner.manifest.parity is None


def test_metadata_alone_may_change(changed, gtsa_here) -> None:
    def annotate(model: onnx.ModelProto) -> None:
        model.metadata_props.add(key="author", value="somebody")
        model.producer_name = "another tool"

    assert open_manifest(changed(annotate)).manifest.parity.passed


@pytest.mark.parametrize("target", ["triton", "trt"])
def test_nothing_is_built_on_a_graph_that_fails_the_new_gate(target: str, changed, gtsa_here, alone: Path) -> None:
    if target == "trt":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    path = changed(cut_residual, alone)
    out = path.parent / ("encoder.engine" if target == "trt" else "models")
    done = gtsa_here("export", path, "--format", target, "--out", out)
    assert done.returncode == 1
    assert "has no parity report: the file was changed after its export; it is compared" in done.stderr
    assert "FAILED" in done.stderr
    assert "differs from the encoder" in done.stderr
    assert not out.exists()


def test_a_graph_that_passes_the_new_gate_is_built_with_the_new_report(changed, gtsa_here, alone: Path) -> None:
    path = changed(insert_identity, alone)
    done = gtsa_here("export", path, "--format", "triton", "--input", "uint8", "--out", path.parent / "models")
    assert done.returncode == 0, done.stderr
    assert "it is compared with the encoder now" in done.stderr
    served = path.parent / "models" / "encoder_floats" / "1" / "model.onnx"
    opened = open_manifest(served)
    assert (opened.problem, opened.manifest.parity.passed) == ("", True)
    assert open_manifest(path).problem == content.CHANGED, "the user's file is not written to"
    model = path.parent / "models" / "encoder"
    assert inspect_file(model).folder.parity.passed
    preprocessing = path.parent / "models" / "encoder_preprocess" / "1" / "model.onnx"
    preprocessing.write_bytes(preprocessing.read_bytes() + b"\0")
    assert inspect_file(model).report_problem == "../encoder_preprocess/1/model.onnx was changed after its export"
    assert "no report: ../encoder_preprocess" in gtsa_here("info", model).stdout


def test_commands_that_run_a_changed_file_say_so(changed, gtsa_here, few: Path, alone: Path) -> None:
    path = changed(insert_identity, alone)
    done = gtsa_here("embed", few, "--model", path, "--out", path.parent / "features", "--size", "32")
    assert done.returncode == 0, done.stderr
    assert f"gtsa: {path} has no parity report: the file was changed after its export" in done.stderr


def test_info_on_a_file_whose_weights_are_missing(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(tiny_onnx), path, save_as_external_data=True, location="split.data", size_threshold=1000)
    assert inspect_file(path).manifest.parity.passed, "the weights only moved"
    (tmp_path / "split.data").unlink()
    facts = inspect_file(path)
    assert facts.manifest.parity is None
    assert "split.data" in facts.report_problem


def test_weights_that_were_changed_too_are_no_reference(changed, gtsa_here, alone: Path) -> None:
    path = changed(scale_weight, alone)
    manifest = open_manifest(path).manifest
    assert open_reference(path, manifest) is None
    done = gtsa_here("export", path, "--format", "triton", "--out", path.parent / "models")
    assert (done.returncode, "were not found" in done.stderr) == (2, True)
    source = open_source(path)  # as the source of an export they are weights like any others, by their own hash
    assert source.sha256 != manifest.source_sha256
    assert "used as they are: the file was changed" in source.note


def test_lost_names_end_in_a_sentence(changed, gtsa_here, alone: Path) -> None:
    path = changed(rename_weights, alone)
    with pytest.raises(ValueError, match=r"of its \d+ weights are gone or renamed, such as .*; name the run"):
        open_source(path)
    assert open_reference(path, open_manifest(path).manifest) is None


# --- other formats and their manifests ------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["torchscript", "pt2", "openvino"])
def test_a_manifest_of_another_file_gives_no_report(file_format: str, made, tmp_path: Path) -> None:
    """Swap manifests: the file of one export with the manifest of another that has the same format."""
    suffix = SUFFIX[file_format]
    for file in made(file_format).parent.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / f"encoder{suffix}"
    assert open_manifest(path).problem == ""
    shutil.copy(manifest_path(made(file_format, precision="bf16")), manifest_path(path))
    assert inspect_file(path).report_problem == content.CHANGED
    with pytest.warns(ReportWarning, match="has no parity report"):
        assert load(path, "cpu").manifest.parity is None


def test_openvino_weights_belong_to_the_content(made, tmp_path: Path) -> None:
    for file in made("openvino").parent.iterdir():
        shutil.copy(file, tmp_path)
    weights = tmp_path / "encoder.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert open_manifest(tmp_path / "encoder.xml").problem == content.CHANGED


def edited(path: Path, **changes: object) -> None:
    facts = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps(facts | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "int8"},  # it would loosen the tolerance
        {"preprocessing": {"size": 224, "resize": "stretch", "interpolation": "bilinear, antialiased"}},
        {"source_sha256": "0" * 64},
    ],
)
def test_an_edited_manifest_has_no_report(changes: dict, made, tiny_onnx: Path, tmp_path: Path) -> None:
    for source in (made("torchscript"), tiny_onnx):
        shutil.copy(source, tmp_path)
        shutil.copy(manifest_path(source), tmp_path)
    path = tmp_path / "encoder.ts"
    edited(path, **changes)
    assert open_manifest(path).problem == content.EDITED
    graph = tmp_path / "encoder.onnx"  # it has another manifest inside, which is still valid
    edited(graph, **changes)
    opened = open_manifest(graph)
    assert (opened.problem, opened.manifest.parity.passed) == ("", True)
    assert opened.note == "encoder.onnx.json is not the manifest of this file, so that inside encoder.onnx is used"


def test_reports_of_earlier_versions_are_not_trusted(made, tmp_path: Path) -> None:
    path = tmp_path / "encoder.ts"
    shutil.copy(made("torchscript"), path)
    facts = json.loads(manifest_path(made("torchscript")).read_text())
    manifest_path(path).write_text(json.dumps(facts | {"content_sha256": "", "checksum": ""}))
    assert open_manifest(path).problem == content.UNBOUND
    facts["parity"]["differences"][0]["same_neighbor"] = facts["parity"]["differences"][0].pop("neighbors")
    manifest_path(path).write_text(json.dumps(facts))
    assert open_manifest(path).problem == content.UNREADABLE


def test_a_manifest_of_another_format_is_refused(made, tmp_path: Path) -> None:
    path = tmp_path / "encoder.ts"
    shutil.copy(made("torchscript"), path)
    shutil.copy(manifest_path(made("pt2")), manifest_path(path))
    with pytest.raises(ValueError, match=r"encoder\.ts\.json describes a file in pt2, not encoder\.ts; copy both"):
        load(path, "cpu")


# --- the reference --------------------------------------------------------------------------------------------------


def test_the_reference_is_found_where_the_manifest_says(made, tiny_run: Path, tmp_path: Path) -> None:
    """Weights that stayed are opened by their absolute path, and weights that moved along by the relative one."""
    away = tmp_path / "away" / "encoder.ts"
    away.parent.mkdir()
    shutil.copy(made("torchscript"), away)
    shutil.copy(manifest_path(made("torchscript")), manifest_path(away))
    opened = open_manifest(away).manifest
    assert open_reference(away, opened).path == (tiny_run / "encoder.safetensors").resolve()
    record = opened.source.model_copy(update={"path": "/nowhere/w.safetensors", "relative": "../weights/w.safetensors"})
    moved = opened.model_copy(update={"source": record})
    assert open_reference(away, moved) is None
    message = missing_reference(away, moved)
    assert opened.source_sha256[:12] in message
    assert "/nowhere/w.safetensors" in message
    (tmp_path / "weights").mkdir()
    shutil.copy(tiny_run / "encoder.safetensors", tmp_path / "weights" / "w.safetensors")
    shutil.copy(tiny_run / "encoder.json", tmp_path / "weights" / "w.json")
    assert open_reference(away, moved).path.name == "w.safetensors"
    (tmp_path / "weights" / "w.safetensors").write_bytes(b"other weights")
    assert open_reference(away, moved) is None, "its hash is not that of the manifest"


def test_weights_of_another_tool_are_opened_with_the_options_of_the_export(
    tiny_run: Path, tmp_path: Path, scenes
) -> None:
    weights = open_source(tiny_run).encoder.vit.state_dict()
    torch.save(weights, tmp_path / "theirs.pth")
    given = ImportOptions(heads=4, mean=(0.5, 0.5, 0.5), std=(0.4, 0.5, 0.6))
    source = open_source(tmp_path / "theirs.pth", given)
    options = ExportOptions(height=Range(32, 32), width=Range(32, 32))
    path = tmp_path / "out" / "encoder.ts"
    manifest = export_artifact(source, "torchscript", path, options, scenes)
    assert manifest.checksum == read_manifest(path).checksum
    for against in (None, tmp_path / "theirs.pth"):
        reference = open_reference(path, manifest, against).encoder
        assert reference.architecture.heads == 4
        assert reference.preprocessing.std == (0.4, 0.5, 0.6)


def test_the_new_gate_names_the_missing_weights(changed, alone: Path) -> None:
    path = changed(scale_weight, alone)
    opened = open_manifest(path)
    from rich.console import Console

    with pytest.raises(ValueError, match="put them beside it, or export them again"):
        gate_again.gate_again(path, opened.problem, opened.manifest, None, Console(quiet=True))


def lonely(made, tmp_path: Path) -> Path:
    """Return a file whose weights lie nowhere."""
    path = tmp_path / "encoder.ts"
    shutil.copy(made("torchscript"), path)
    facts = json.loads(manifest_path(made("torchscript")).read_text())
    facts["source"] |= {"path": "/nowhere/encoder.safetensors", "relative": "../nowhere.safetensors"}
    manifest_path(path).write_text(json.dumps(facts))
    return path


def test_a_file_without_its_weights_is_checked_as_far_as_possible(made, tmp_path: Path, gtsa_here) -> None:
    path = lonely(made, tmp_path)
    done = gtsa_here("verify", path)
    assert done.returncode == 0, done.stderr
    for words in ("outputs are finite", "two runs give the same outputs", "is the mean of the feature map"):
        assert words in done.stderr
    assert "not compared with the float32 encoder: the weights that" in done.stderr
    assert "/nowhere/encoder.safetensors" in done.stderr
    printed = json.loads(gtsa_here("verify", path, "--json").stdout)
    assert printed["passed"]
    assert {check["name"] for check in printed["checks"]} == {"content", "shapes", "finite", "repeatable", "embedding"}


def test_a_changed_file_without_its_weights_fails(made, tmp_path: Path, gtsa_here) -> None:
    path = lonely(made, tmp_path)
    shutil.copy(made("torchscript", precision="bf16"), path)
    done = gtsa_here("verify", path)
    assert done.returncode == 1
    assert "failed a check: content: the file was changed after its export" in done.stderr


class Scripted(Runner):
    """Runner of a real one whose outputs a function changes."""

    def __init__(self, runner: Runner, change: Callable[[list[np.ndarray], int], list[np.ndarray]]) -> None:
        self.runner, self.change, self.calls = runner, change, 0
        self.manifest, self.provider = runner.manifest, "scripted"

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        self.calls += 1
        features = self.runner(images)
        return self.change([features.embedding, features.feature_map], self.calls)


WRONG: dict[str, Callable[[list[np.ndarray], int], list[np.ndarray]]] = {
    "shapes": lambda outputs, _: [outputs[0][:, :32], outputs[1]],
    "finite": lambda outputs, _: [outputs[0], outputs[1] * np.float32("nan")],
    "repeatable": lambda outputs, call: [outputs[0], outputs[1] + np.float32(call % 2)],
    "embedding": lambda outputs, _: [outputs[1][:, :, 0, 0], outputs[1]],
}


@pytest.mark.parametrize("name", WRONG)
def test_each_check_without_a_reference_can_fail(name: str, alone: Path, scenes) -> None:
    true = load(alone, "cpu")
    assert all(check.passed for check in self_check(true, scenes))
    checks = {check.name: check for check in self_check(Scripted(true, WRONG[name]), scenes)}
    assert not checks[name].passed
    assert checks[name].message.startswith("not so at ")
