"""Properties of exported files other than parity."""

import json
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from helpers.graphs import BOUNDED, FIXED
from onnx import TensorProto

from gtsa_kit.export import load
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.formats.quant_layers import QUANT_TYPES, activation_scales, layer_sensitivity
from gtsa_kit.export.formats.quantize import Calibration, calibration_batches
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import artifact_path, check_supported, export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import OPSETS, SUFFIX, ExportOptions, Range
from gtsa_kit.files import sha256_of
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("traces")

FORMATS = ["onnx", "torchscript", "pt2", "openvino"]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of a graph."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 224, 224), (3, 48, 208), (5, 16, 16), (1, 512, 32), (2, 640, 480)])
def test_any_shape_runs(file_format: str, shape: tuple[int, int, int], made, tiny_run: Path) -> None:
    """Run shapes that are no parity cases, and batches that a runner may divide."""
    images = np.random.default_rng(0).standard_normal((shape[0], 3, *shape[1:]), dtype=np.float32)
    expected = load_encoder(tiny_run)(torch.from_numpy(images))
    actual = load(made(file_format), "cpu")(images)
    assert actual.feature_map.shape == (shape[0], 64, shape[1] // 16, shape[2] // 16)
    assert actual.feature_map.dtype == np.float32
    np.testing.assert_allclose(actual.feature_map, expected.feature_map.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(actual.embedding, expected.embedding.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(actual.embedding, actual.feature_map.mean((2, 3)), atol=1e-5)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def normalized(pixels: np.ndarray) -> np.ndarray:
    p = Preprocessing()
    return ((pixels / 255 - p.mean) / p.std).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("file_format", FORMATS)
def test_layers_equal_timm(file_format: str, made, tiny_run: Path, pixels: np.ndarray, normalized: np.ndarray) -> None:
    """Compare with timm's forward at the size whose position embeddings need no resampling."""
    encoder = load_encoder(tiny_run)
    model = timm.create_model(encoder.architecture.timm_model, num_classes=0, **encoder.architecture.timm_kwargs).eval()
    model.load_state_dict(encoder.vit.state_dict())
    with torch.no_grad():
        images = torch.from_numpy(normalized)
        expected = model.forward_intermediates(images, indices=[0, 1], norm=True, intermediates_only=True)
    actual = load(made(file_format, **BOUNDED), "cpu")(pixels)
    assert list(actual.layers) == [1, 0]
    for layer in (0, 1):
        np.testing.assert_allclose(actual.layers[layer], expected[layer].numpy(), atol=2e-5)
    np.testing.assert_allclose(actual.layers[1], actual.feature_map, atol=1e-6)


@pytest.mark.parametrize("file_format", FORMATS)
def test_uint8_input_is_normalized_in_the_graph(
    file_format: str, made, pixels: np.ndarray, normalized: np.ndarray
) -> None:
    """Check that uint8 input equals normalizing outside of the graph."""
    inside = load(made(file_format, **BOUNDED), "cpu")(pixels[:, :64, :96])
    outside = load(made(file_format), "cpu")(normalized[:, :, :64, :96])
    np.testing.assert_allclose(inside.feature_map, outside.feature_map, atol=1e-4)
    assert read_manifest(made(file_format, **BOUNDED)).inputs[0].shape == ("batch", "height", "width", 3)


def test_onnx_is_one_plain_file(made) -> None:
    path = made("onnx")
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Resize", "Dropout", "Identity", "BatchNormalization"}
    assert {"LayerNormalization", "Gelu"} <= operators
    assert not any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["embedding", "feature_map"]
    axes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    axes = [d.dim_param or d.dim_value for d in model.graph.output[1].type.tensor_type.shape.dim]
    assert axes == ["batch", 64, "height//16", "width//16"]
    metadata = {p.key: p.value for p in model.metadata_props}
    inside, beside = json.loads(metadata["gtsa_kit"]), json.loads(manifest_path(path).read_text())
    assert Path(beside["source"].pop("path")).name == "encoder.safetensors"
    assert beside["source"].pop("relative").endswith("/encoder.safetensors")
    assert (inside["source"].pop("path"), inside["source"].pop("relative")) == ("", "")  # it names no folders
    assert inside == beside


@pytest.mark.parametrize("opset", sorted({OPSETS[0], ExportOptions().opset, OPSETS[-1]}))
def test_every_opset_gives_equal_results(opset: int, made) -> None:
    """The oldest opset has the fewest operators for a graph of any size; the newest is tested with a fixed one."""
    size = {"height": Range(64, 64), "width": Range(48, 48)} if opset == OPSETS[-1] else {}
    path = made("onnx", opset=opset, **size)
    model = onnx.load(path)
    assert {o.domain: o.version for o in model.opset_import}[""] == opset == int(read_manifest(path).target["opset"])
    assert ("Gelu" in {node.op_type for node in model.graph.node}) == (opset >= 20)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 48), dtype=np.float32)
    np.testing.assert_allclose(load(path)(images).feature_map, load(made("onnx"))(images).feature_map, atol=2e-5)


def test_every_optimization_level_gives_equal_results(made) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 80, 112), dtype=np.float32)
    exact = load(made("onnx"), "cpu")(images).feature_map
    for precision in ("fp32", "fp16", "int8"):
        results = []
        for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
            options = ort.SessionOptions()
            options.add_session_config_entry("session.x64quantprecision", "1")  # as the runner does
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
            session = ort.InferenceSession(str(made("onnx", precision=precision)), options, ["CPUExecutionProvider"])
            results.append(session.run(["feature_map"], {"images": images})[0])
        # Orders of summation differ, and an int8 sum between two steps may round to either one. That is rare, so means
        # are compared.
        rounding = np.abs(results[0] - exact).mean() + 2e-6
        for other in [*results[1:], load(made("onnx", precision=precision), "cpu")(images).feature_map]:
            assert np.abs(other - results[0]).mean() < rounding / 4, precision


@pytest.mark.parametrize(("precision", "half"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_half_graphs_keep_float32_where_it_matters(precision: str, half: int, made) -> None:
    model = onnx.load(made("onnx", precision=precision))
    types = tensor_types(model)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert sum(types[node.output[0]] == half for node in products) >= 2 * 6 + 1  # all but those of the positions
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "ReduceMean"):
            for name in (*node.input[:1], *node.output):
                assert types[name] == TensorProto.FLOAT, f"{node.op_type} {name}"
    assert {types[v.name] for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    blocks = [t for t in model.graph.initializer if len(t.dims) == 2 and min(t.dims) >= 64 and t.dims[0] != 196]
    assert {t.data_type for t in blocks} == {half}


def test_int8_is_symmetric_and_per_channel(made) -> None:
    """Check what TensorRT requires: int8 on both sides, zero points 0."""
    model = onnx.load(made("onnx", precision="int8"))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    quantizers = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert Counter(n.op_type for n in quantizers) == {"QuantizeLinear": 8, "DequantizeLinear": 16}
    for node in quantizers:
        zero = values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    weights = [n for n in quantizers if n.input[0] in values]
    assert len(weights) == 8
    for node in weights:
        stored, scale = values[node.input[0]], values[node.input[1]]
        assert stored.dtype == np.int8
        assert scale.shape == (stored.shape[1],)
        assert np.abs(stored).max(axis=0).min() == 127  # every channel uses the whole range
    assert made("onnx", precision="int8").stat().st_size < made("onnx").stat().st_size * 0.7


def test_fixed_size_folds_the_position_embeddings(made) -> None:
    """Check that no arithmetic of position embeddings and no dynamic axis remains."""
    fixed = onnx.load(made("onnx", **{**FIXED, "batch": Range(2, 2)}))
    dynamic = onnx.load(made("onnx"))
    assert len(fixed.graph.node) < len(dynamic.graph.node) - 20
    assert not {n.op_type for n in fixed.graph.node} & {"Range", "Where", "Shape", "Abs"}
    for value in (*fixed.graph.input, *fixed.graph.output):
        assert all(d.dim_value for d in value.type.tensor_type.shape.dim)


BARE = {"torchscript": "torch.jit.load(path)", "pt2": "torch.export.load(path).module()"}
"""Call by which a program without gtsa-kit opens a file."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Link torch and its dependencies into a folder, without gtsa-kit and its other dependencies."""
    absent = (
        "gtsa",
        "_gtsa",
        "_editable",
        "timm",
        "torchvision",
        "onnx",
        "openvino",
        "safetensors",
        "lightning",
        "PIL",
    )
    folder = tmp_path_factory.mktemp("bare")
    for entry in Path(torch.__file__).parents[1].iterdir():
        if not entry.name.startswith(absent) and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def test_torch_files_run_in_a_bare_environment(made, bare: Path, tmp_path: Path) -> None:
    """One process runs all files, since most of its time goes into the import of torch."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import torch\n"
        "for name in ('gtsa_kit', 'timm'):\n"
        "    try:\n        __import__(name); print('not bare')\n    except ImportError:\n        pass\n"
    )
    expected = []
    for file_format, opener in BARE.items():
        for precision in ("fp32", "bf16"):
            code += (
                f"path = {str(made(file_format, precision=precision))!r}; m = {opener}\n"
                "for shape in ((2, 3, 32, 64), (1, 3, 16, 16)):\n"
                "    e, f = m(torch.zeros(shape)); print(path, tuple(e.shape), tuple(f.shape), e.dtype)\n"
            )
            expected += [
                f"{made(file_format, precision=precision)} {shapes} torch.float32"
                for shapes in ("(2, 64) (2, 64, 2, 4)", "(1, 64) (1, 64, 1, 1)")
            ]
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", code, str(bare)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize("file_format", FORMATS)
def test_files_contain_no_paths_of_this_machine(file_format: str, made) -> None:
    path = made(file_format)
    contents = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    for word in (
        b"/export/graph.py",
        b"site-packages",
        str(Path.home()).encode() + b"/",
        str(Path(__file__).parents[2]).encode(),
    ):
        assert not any(word in content for content in contents), word


def test_torchscript_is_frozen(made) -> None:
    module = torch.jit.load(str(made("torchscript")))
    assert not list(module.named_parameters())
    assert not list(module.named_buffers())


def test_manifest_describes_the_artifact(made, tiny_run: Path) -> None:
    for file_format in FORMATS:
        manifest = read_manifest(made(file_format, **BOUNDED))
        assert manifest.format == file_format
        assert manifest.source_sha256 == sha256_of(tiny_run / "encoder.safetensors")
        assert manifest.dim == 64
        axes = manifest.axes
        assert (axes["height"].min, axes["height"].max, axes["width"].min, axes["width"].max) == (64, 256, 48, 320)
        assert (axes["height"].multiple_of, axes["batch"].min, axes["batch"].max) == (16, 1, 4)
        assert manifest.preprocessing["mean"] == [0.485, 0.456, 0.406]
        assert manifest.outputs[1].shape == ("batch", 64, "height/16", "width/16")


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_onnx_file_can_be_exported_again(file_format: str, made, tiny_run: Path, tmp_path: Path) -> None:
    if file_format == "openvino":
        pytest.importorskip("openvino")
    source = open_source(made("onnx"))
    original = load_encoder(tiny_run).vit.state_dict()
    for name, tensor in source.encoder.vit.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    if file_format != "onnx":
        # The weights are the same and any graph of them would be; one of a fixed size is traced in a third of the time.
        fixed = ExportOptions(height=Range(64, 64), width=Range(96, 96))
        manifest = export_artifact(source, file_format, tmp_path / f"encoder{SUFFIX[file_format]}", fixed)
        assert manifest.parity.passed
        assert manifest.source_sha256 == sha256_of(tiny_run / "encoder.safetensors")


def test_files_without_float32_weights_are_rejected_as_sources(made) -> None:
    for path in (made("torchscript"), made("onnx", precision="fp16"), made("onnx", precision="int8")):
        with pytest.raises(ValueError, match="weights"):
            open_source(path)


def with_outliers(encoder: Encoder) -> Encoder:
    """Make one input channel of a layer so large that the others lose their steps; in float32 nothing changes."""
    with torch.no_grad():
        block = encoder.vit.blocks[1]
        block.norm2.weight[3] *= 1000
        block.norm2.bias[3] *= 1000
        block.mlp.fc1.weight[:, 3] /= 1000
    return encoder


def test_layers_with_outliers_stay_float(
    tiny_run: Path, calibration: Calibration, scenes: ParityImages, tmp_path: Path
) -> None:
    """Trained weights have inputs with outliers, which cost int8 most of its steps; random weights have none."""
    plain = open_source(tiny_run)
    planted = replace(plain, encoder=with_outliers(load_encoder(tiny_run)))
    fixed = ExportOptions(precision="int8", height=Range(64, 64), width=Range(96, 96), batch=Range(2, 2))
    count, worst, kept = {}, {}, {}
    for name, source in (("plain", plain), ("planted", planted)):
        manifest = export_artifact(source, "onnx", tmp_path / f"{name}.onnx", fixed, scenes, calibration)
        nodes = onnx.load(tmp_path / f"{name}.onnx").graph.node
        count[name] = sum(node.op_type == "QuantizeLinear" for node in nodes)
        worst[name] = min(d.min_cosine for d in manifest.parity.differences)
        kept[name] = manifest.target.get("float_layers")
    assert kept == {"plain": None, "planted": "blocks.1.mlp.fc1"}
    assert count == {"plain": 8, "planted": 7}
    assert 1 - worst["planted"] < 2 * (1 - worst["plain"]), "the outliers still cost their steps"


def test_layer_sensitivity_finds_the_sensitive_layer(tiny_run: Path, calibration: Calibration) -> None:
    encoder = with_outliers(load_encoder(tiny_run))
    options = ExportOptions()
    batches = list(calibration_batches(calibration, encoder.preprocessing, options))[:2]
    graph = ExportGraph(encoder, options)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    scales = activation_scales(graph, batches, QUANT_TYPES["int8"])
    results = layer_sensitivity(graph, batches[0], scales, QUANT_TYPES["int8"])
    assert len(results) == 8
    assert results[0][0] == "blocks.1.mlp.fc1"
    assert 1 - results[0][1] > 10 * (1 - results[1][1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())


def test_export_errors_have_hints(tiny_run: Path, made, tmp_path: Path) -> None:
    source = open_source(tiny_run)
    (tmp_path / "encoder.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="--force"):
        artifact_path(source, "onnx", tmp_path, force=False)
    assert artifact_path(source, "onnx", tmp_path, force=True) == tmp_path / "encoder.onnx"
    assert artifact_path(source, "pt2", None, force=False) == tiny_run / "encoder.pt2"
    with pytest.raises(ValueError, match="choose one of onnx, torchscript"):
        artifact_path(source, "tflite", None, force=False)
    with pytest.raises(ValueError, match=r"does not end in \.ts"):
        artifact_path(source, "torchscript", tmp_path / "x.onnx", force=False)
    with pytest.raises(ValueError, match="the source itself"):
        artifact_path(open_source(made("onnx")), "onnx", None, force=True)
    with pytest.raises(ValueError, match="choose onnx, openvino"):
        check_supported("torchscript", ExportOptions(precision="int8"), calibrated=True)
    with pytest.raises(ValueError, match="--calibrate"):
        check_supported("onnx", ExportOptions(precision="int8"), calibrated=False)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"precision": "fp4"}, "choose one of"),
        ({"opset": 17}, "18 to 23"),
        ({"input": "int16"}, "uint8"),
        ({"height": Range(20, 40)}, "multiples of 16"),
        ({"height": Range(64, 32)}, "above the maximum"),
        ({"height": Range(0, 32)}, "at least 1 pixel"),
        ({"height": Range(32, 32)}, "both height and width"),
        ({"batch": Range(0, 4)}, "1 <= MIN"),
        ({"batch": Range(4, 2)}, "MIN <= MAX"),
        ({"layers": (1, 1)}, "twice"),
    ],
)
def test_option_errors_name_what_is_allowed(wrong: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ExportOptions(**wrong).in_patches(16)


def test_missing_layers_are_rejected(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        export_artifact(open_source(tiny_run), "torchscript", tmp_path / "encoder.ts", ExportOptions(layers=(2,)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [Range(1, None), Range(2, 8), Range(4, 4)], ids=["any", "2 to 8", "4"])
def test_pt2_of_one_size_needs_no_recent_torch(
    batch: Range, tiny_run: Path, scenes: ParityImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gtsa_kit.export.formats.pt2.has_shape_assumptions", lambda: False)
    options = ExportOptions(height=Range(48, 48), width=Range(32, 32), batch=batch)
    report = export_artifact(open_source(tiny_run), "pt2", tmp_path / "e.pt2", options, scenes).parity
    assert report is not None
    assert report.passed
    assert batch.fixed or 7 in {difference.batch for difference in report.differences}
    assert batch.min > 1 or 1 in {difference.batch for difference in report.differences}


def test_pt2_of_any_size_says_which_torch_it_needs(
    tiny_run: Path, scenes: ParityImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gtsa_kit.export.formats.pt2.has_shape_assumptions", lambda: False)
    with pytest.raises(ValueError, match="give one --size"):
        export_artifact(open_source(tiny_run), "pt2", tmp_path / "e.pt2", None, scenes)
    assert not any(tmp_path.iterdir())
