"""Parity of task models: every head in every format, precisions, masks, faults that the gate must detect."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.task_models import LABELS, TASKS, random_task_model, task_spec

from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.export import Runner, load
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest, read_manifest
from gtsa_kit.export.manifest_records import AxisRange
from gtsa_kit.export.overflow import explain_not_finite
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.task_comparison import class_agreement, compare_task_output, logits_std
from gtsa_kit.export.task_graph import TaskGraph, build_graph, options_for
from gtsa_kit.export.tolerances import TaskTolerance
from gtsa_kit.models.encoder import Encoder, normalize
from gtsa_kit.models.outputs import Features, TaskOutput
from gtsa_kit.models.task_model import TaskModel, load_task_model

FIXED = {"height": Range(48, 48), "width": Range(64, 64), "batch": Range(2, 2)}
DYNAMIC = {"height": Range(16, 96), "width": Range(16, 96), "batch": Range(1, 3)}
FORMATS = ("onnx", "torchscript", "pt2", "openvino")
# The strided head has every operator of the others; its graphs are dynamic, those of the others are of one size.
SHAPES = {kind: DYNAMIC if kind == "fpn strided" else FIXED for kind in TASKS}


def graph_logits(file: Path, model: TaskModel, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run ONNX Runtime itself on a file, and the torch model, on the same images."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(torch.from_numpy(images))
    return session.run(None, {"images": images})[0], expected.numpy()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_head_passes_the_gate_in_every_format(
    file_format: str, kind: str, made, task_run, matrix: Callable[[str, Manifest], None]
) -> None:
    file = made(file_format, task_run(kind), **SHAPES[kind])
    manifest = read_manifest(file)
    matrix(kind, manifest)
    assert manifest.parity.passed, parity_table(manifest.parity)
    assert {d.output for d in manifest.parity.differences} == {"logits"}
    assert (manifest.kind, manifest.task) == ("task", "classify" if kind == "classify" else "segment")
    assert [(label.id, label.name, label.color) for label in manifest.labels] == [
        (label.id, label.name, label.color) for label in LABELS
    ]
    shape = (2, 5) if kind == "classify" else (2, 5, 48, 64)
    output = load(file, "cpu")(np.zeros((2, 3, 48, 64), np.float32))
    assert (output.logits.shape, output.logits.dtype, output.mask) == (shape, np.float32, None)


@pytest.mark.parametrize("size", [(1, 16, 16), (2, 16, 96), (3, 80, 48)])
def test_a_dynamic_graph_equals_the_torch_model_at_every_grid(size: tuple[int, int, int], made, task_run) -> None:
    run = task_run("fpn strided")
    batch, height, width = size
    images = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
    actual, expected = graph_logits(made("onnx", run, **DYNAMIC), load_task_model(run), images)
    np.testing.assert_allclose(actual, expected, atol=2e-4)


def test_a_mask_is_the_class_with_the_largest_logit(made, task_run) -> None:
    run = task_run("fpn flat")
    file = made("onnx", run, output="mask", input="uint8", **FIXED)
    manifest = read_manifest(file)
    assert manifest.parity.passed
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.outputs] == [("mask", "uint8", (2, 48, 64))]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    model = load_task_model(run)
    with torch.inference_mode():
        logits = model(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), model.encoder.preprocessing)).numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    mask = session.run(None, {"images": pixels})[0]
    best = np.sort(logits, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-3
    assert clear.mean() > 0.99
    assert (mask == logits.argmax(axis=1))[clear].all()
    assert (load(file, "cpu")(pixels).mask == mask).all()


@pytest.mark.parametrize(
    ("kind", "precision", "options"),
    [
        ("fpn strided", "fp16", {}),
        ("fpn flat", "bf16", {}),
        ("fpn flat", "int8", {}),
        ("linear", "int8", {"keep_float": ("head",)}),
        ("eomt", "fp16", {}),
    ],
)
def test_lower_precisions_pass_the_gate(
    kind: str, precision: str, options: dict, made, task_run, matrix: Callable[[str, Manifest], None]
) -> None:
    file = made("onnx", task_run(kind), precision=precision, **options, **FIXED)
    manifest = read_manifest(file)
    matrix(kind, manifest)
    assert manifest.parity.passed, parity_table(manifest.parity)
    assert manifest.target.get("head") == ("float32" if precision == "bf16" or options else None)


def operators(file: Path) -> list[tuple[str, str]]:
    """Return the operator and the type of the weights of each convolution and matrix product."""
    import onnx

    graph = onnx.load(file).graph
    types = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in graph.initializer}
    types |= {
        node.output[0]: "INT8" for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in types
    }
    return [(n.op_type, types.get(n.input[1], "")) for n in graph.node if n.op_type in ("Conv", "ConvTranspose")]


def test_convolutions_of_the_head_have_the_type_of_the_precision(made, task_run) -> None:
    """Count convolutions: 1 of the patches, 8 of the top-down path, 1 to 6 of the levels, 1 classifier."""
    flat, strided = task_run("fpn flat"), task_run("fpn strided")
    half = operators(made("onnx", strided, precision="fp16", **FIXED))
    assert half.count(("ConvTranspose", "FLOAT16")) == 3
    assert half.count(("Conv", "FLOAT16")) == len(half) - 3 == 8 + 7 + 1
    assert operators(made("onnx", flat, precision="bf16", **FIXED)) == [("Conv", "FLOAT")] * 13
    assert sorted(operators(made("onnx", flat, precision="int8", **FIXED))) == [
        *[("Conv", "FLOAT")],
        *[("Conv", "INT8")] * 13,
    ]
    kept = made("onnx", task_run("linear"), precision="int8", keep_float=("head",), **FIXED)
    assert operators(kept) == [("Conv", "FLOAT")] * 2


def test_folded_batch_norms_compute_the_same() -> None:
    model = random_task_model(task_spec("fpn strided"))
    graph = TaskGraph(model, options_for(model, ExportOptions()))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in graph.modules())
    maps = [torch.randn(1, 64, 3, 2) for _ in range(4)]
    expected = model.double().head(*(one.double() for one in maps))
    torch.testing.assert_close(graph.head(*maps).double(), expected, atol=2e-5, rtol=1e-5)


def small(runner: Runner) -> Runner:
    """Limit the sizes that a runner accepts, and so the cases of the gate."""
    axes = {"batch": AxisRange(min=1, max=7, multiple_of=1)}
    axes |= {axis: AxisRange(min=16, max=64, multiple_of=16) for axis in ("height", "width")}
    runner.manifest = runner.manifest.model_copy(update={"axes": axes})
    return runner


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("linear", "classifier.weight"),
        ("fpn flat", "top_down.lateral.1.weight"),
        ("fpn flat", "scales.2.blocks.0.1.running_var"),
        ("fpn strided", "pyramid.levels.0.0.weight"),
        ("fpn strided", "scales.3.blocks.2.0.weight"),
        ("classify", "norm.weight"),
        ("classify", "classifier.weight"),
    ],
)
def test_one_percent_in_one_layer_of_the_head_is_detected(
    kind: str, layer: str, task_run, scenes: ParityImages, tmp_path: Path
) -> None:
    from gtsa_kit.models.task_model import save_task_model

    model = load_task_model(task_run(kind))
    with torch.no_grad():
        model.head.state_dict()[layer].mul_(1.01)
    save_task_model(tmp_path, model, {})
    original = load_task_model(task_run(kind))
    report = check_parity(original, small(load(tmp_path, "cpu")), scenes)
    assert not report.passed
    assert "differs from the encoder: logits at" in failure_message(tmp_path, report)
    assert check_parity(original, small(load(task_run(kind), "cpu")), scenes).passed


def test_a_head_that_overflows_is_named() -> None:
    model = random_task_model(task_spec("linear"))
    with torch.no_grad():
        model.head.classifier.weight.mul_(1e6)
    advice = explain_not_finite(model, "fp16", torch.randn(1, 3, 32, 32))
    assert advice == "not finite from the head on; try --keep-float head"


def test_another_task_or_other_classes_are_one_sentence(task_run, tiny_run: Path, scenes: ParityImages) -> None:
    model = load_task_model(task_run("linear"))
    with pytest.raises(ValueError, match="for the task classify, the model for segment; name the run"):
        check_parity(model, load(task_run("classify"), "cpu"), scenes)
    with pytest.raises(ValueError, match="the file is of an encoder"):
        check_parity(model, load(tiny_run, "cpu"), scenes)
    with pytest.raises(ValueError, match="the weights are an encoder"):
        check_parity(Encoder("vit_test"), load(task_run("linear"), "cpu"), scenes)
    other = random_task_model(replace(model.spec, labels=(*LABELS[:-1], replace(LABELS[-1], name="wall"))))
    with pytest.raises(ValueError, match="other classes than the model, such as fence"):
        check_parity(other, load(task_run("linear"), "cpu"), scenes)


def test_options_that_do_not_fit_the_model_are_refused(task_run, tiny_run: Path) -> None:
    segment, classify = load_task_model(task_run("linear")), load_task_model(task_run("classify"))
    encoder = open_source(tiny_run).model
    for model, options, message in (
        (segment, ExportOptions(layers=(0,)), "omit --layers"),
        (segment, ExportOptions(class_token=True), "omit --class-token"),
        (classify, ExportOptions(output="mask"), "--output mask is for segmentation"),
        (encoder, ExportOptions(output="logits"), "--output is for a fine-tuned model"),
        (encoder, ExportOptions(precision="fp16", keep_float=("head",)), "--keep-float head is for a fine-tuned model"),
        (segment, ExportOptions(keep_float=("head",)), "every layer is float32 in fp32"),
        (segment, ExportOptions(precision="fp16", keep_float=("blocks.0",)), "only the head can stay float32"),
    ):
        with pytest.raises(ValueError, match=message):
            options_for(model, options)


def test_an_unknown_layer_to_keep_is_refused(task_run, tmp_path: Path, calibration: Calibration) -> None:
    options = ExportOptions(precision="int8", keep_float=("head.nose",), **FIXED)
    with pytest.raises(ValueError, match=r"no layer 'head\.nose'.*blocks\.0\.qkv"):
        export_artifact(open_source(task_run("linear")), "onnx", tmp_path / "m.onnx", options, None, calibration)
    assert not list(tmp_path.iterdir())


def test_differences_of_logits_by_hand() -> None:
    expected = np.array([[1.0, 1.001, -2.0], [3.0, 0.0, 0.0]], np.float32)[:, :, None, None]
    assert logits_std(expected) == pytest.approx(np.std(expected - expected.mean(1, keepdims=True)))
    chosen = np.array([0, 0])[:, None, None]
    assert class_agreement(expected, chosen, 0.01).all()
    assert class_agreement(expected, chosen, 0.0001).tolist() == [[[False]], [[True]]]
    assert not class_agreement(expected, np.full((2, 1, 1), 255, np.uint8), 100).any()
    actual, case = expected + np.float32(0.25), ParityCase(2, 1, 1)
    tolerance, names = TaskTolerance(0.3, 0.3, 0.9), ["a", "b"]
    d = compare_task_output("logits", expected, actual, case, tolerance, names)
    assert (d.max_abs, d.mean_abs, d.agreement, d.passed) == (pytest.approx(0.25), pytest.approx(0.25), 1.0, True)
    assert not compare_task_output("logits", expected, actual[:, ::-1], case, tolerance, names).passed
    mask = compare_task_output("mask", expected, np.array([2, 0], np.uint8)[:, None, None], case, tolerance, names)
    assert (mask.agreement, mask.image, mask.max_abs, mask.passed) == (0.5, "a", None, False)
    assert compare_task_output("logits", expected, actual[:1], case, tolerance, names).problem.startswith("shape")
    assert compare_task_output("logits", expected, actual * np.nan, case, tolerance, names).problem == "not finite"


@pytest.mark.parametrize("normed", [True, False])
def test_the_graph_gives_maps_with_and_without_the_final_norm(normed: bool) -> None:
    model = random_task_model(task_spec("fpn flat", final_norm=normed))
    images = torch.randn(2, 3, 32, 48)
    graph = build_graph(model, options_for(model, ExportOptions()))
    for actual, expected in zip(graph.features(images), model.features(images), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_batches_of_tasks_and_features_are_not_confused(task_run, tiny_run: Path) -> None:
    from gtsa_kit.export.runtime.batching import predict_in_batches, run_in_batches

    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    segment, encoder = load(task_run("linear"), "cpu"), load(tiny_run, "cpu")
    whole, parts = segment(images), predict_in_batches(segment, images, 2)
    assert isinstance(parts, TaskOutput)
    np.testing.assert_allclose(parts.logits, whole.logits, atol=1e-5)
    assert isinstance(run_in_batches(encoder, images, 2), Features)
    with pytest.raises(ValueError, match="fine-tuned to segment and gives no features"):
        run_in_batches(segment, images)
    with pytest.raises(ValueError, match="an encoder, which gives no classes"):
        predict_in_batches(encoder, images)


def test_triton_serves_a_mask(gtsa_here, made, task_run, tmp_path: Path) -> None:
    file = made("onnx", task_run("fpn flat"), output="mask", input="uint8", **FIXED)
    done = gtsa_here("export", file, "--format", "triton", "--out", tmp_path / "models", "--name", "road")
    assert done.returncode == 0, done.stderr
    config = " ".join((tmp_path / "models" / "road" / "config.pbtxt").read_text().split())
    assert 'name: "mask" data_type: TYPE_UINT8 dims: [2, 48, 64]' in config
    assert 'name: "images" data_type: TYPE_UINT8 dims: [2, 48, 64, 3]' in config


@pytest.mark.parametrize("kind", ["fpn strided", "eomt"])
def test_an_engine_is_built(kind: str, gtsa_here, made, task_run, few: Path, tmp_path: Path) -> None:
    """Build the graphs of the strided head, which has every operator of the other ones, and of queries, with no GPU.

    That of queries has a fixed size; queries of any batch and size are built with instances.
    """
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    dynamic = kind == "fpn strided"
    graph, engine = made("onnx", task_run(kind), **(DYNAMIC if dynamic else FIXED)), tmp_path / "model.engine"
    options = ["--precision", "fp32", *(["--batch", "1:2:3", "--max-size", "64"] if dynamic else [])]
    options += ["--images", few, "--out", engine]
    done = gtsa_here("export", graph, "--format", "trt", "--runtime", "tensorrt-rtx", *options)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(engine)
    assert manifest.engine.graph.parity.passed
    assert manifest.engine.profile == (((1, 3, 16, 16), (2, 3, 64, 64), (3, 3, 64, 64)) if dynamic else ())
    shape = ("batch", 5, "height", "width") if dynamic else (2, 5, 48, 64)
    assert (manifest.task, manifest.outputs[0].shape) == ("segment", shape)
