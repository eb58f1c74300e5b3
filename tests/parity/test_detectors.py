"""Parity of detectors: the exported graph, every format, precisions, and faults that the gate must detect."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stock_detector import stock_detector
from helpers.task_models import DETECTORS, LABELS, PATCH_14, SMALL_DETECTOR, random_task_model, task_spec

from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.export import Runner, detection_parity, load
from gtsa_kit.export.benchmark import compare
from gtsa_kit.export.benchmark.difference import compare_outputs
from gtsa_kit.export.benchmark.workers import BenchmarkWorker, compared_values
from gtsa_kit.export.detection_comparison import DetectionArrays, compare_detections, match_errors
from gtsa_kit.export.detection_parity import FloatGraph
from gtsa_kit.export.detector_graph import DetectorGraph
from gtsa_kit.export.manifest import Manifest, read_manifest
from gtsa_kit.export.manifest_records import AxisRange
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.task_graph import TaskGraph, options_for
from gtsa_kit.export.tolerances import DETECTION_TOLERANCES
from gtsa_kit.models.detections import Detections
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model

FIXED = {"height": Range(64, 64), "width": Range(96, 96), "batch": Range(2, 2)}
DYNAMIC = {"height": Range(32, 96), "width": Range(32, 96), "batch": Range(1, 3)}
SHAPES = {"onnx": DYNAMIC, "torchscript": DYNAMIC, "pt2": FIXED, "openvino": FIXED}


def graph_of(model: TaskModel) -> TaskGraph:
    """Return the float32 graph that is exported."""
    return TaskGraph(model, options_for(model, ExportOptions()))


def pairs(model: TaskModel, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the outputs of the graph and of the model."""
    with torch.no_grad():
        expected = [one for one in model(images) if one is not None]
        return list(zip(graph_of(model)(images), expected, strict=True))


@pytest.mark.parametrize("kind", DETECTORS)
def test_the_graph_gives_the_detections_of_torchvision_in_their_order(kind: str) -> None:
    model = random_task_model(task_spec(kind))
    images = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        boxes, scores, labels, *_ = graph_of(model)(images)
        theirs = stock_detector(model)(list(images))
    for i, expected in enumerate(theirs):
        count = len(expected["scores"])
        assert count > 5
        torch.testing.assert_close(boxes[i, :count], expected["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(scores[i, :count], expected["scores"], atol=2e-5, rtol=0)
        assert torch.equal(labels[i, :count], expected["labels"].int() - 1)
        assert not any(one[i, count:].any() for one in (boxes, scores, labels))


@pytest.mark.parametrize("arch", ["vit_test", PATCH_14], ids=["patch 16", "patch 14"])
@pytest.mark.parametrize("grid", [(1, 1, 7), (3, 5, 3), (1, 9, 2), (2, 6, 11)])
def test_the_graph_equals_the_model_on_every_grid(arch: Any, grid: tuple[int, int, int]) -> None:
    """Odd grids, one patch high, tall, wide, in batches."""
    model, (batch, rows, columns) = random_task_model(task_spec("mask-rcnn"), arch), grid
    patch = model.encoder.architecture.patch
    torch.manual_seed(sum(grid))
    results = pairs(model, torch.randn(batch, 3, rows * patch, columns * patch))
    for (actual, expected), bound in zip(results, (1e-3, 2e-5, 0, 5e-5), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, atol=bound, rtol=0)
    assert (results[1][1] > 0).sum() > 5


def test_no_detections_one_proposal_and_more_slots_than_candidates() -> None:
    images = torch.randn(2, 3, 32, 48)
    nothing = random_task_model(replace(task_spec("mask-rcnn"), detector=replace(SMALL_DETECTOR, score_threshold=1.0)))
    assert not any(actual.any() for actual, _ in pairs(nothing, images))
    few = replace(SMALL_DETECTOR, proposals=2, pre_nms=3, max_detections=50)
    for actual, expected in pairs(random_task_model(replace(task_spec("mask-rcnn"), detector=few)), images):
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("file_format", SHAPES)
def test_detectors_pass_the_gate_in_every_format(
    file_format: str, made, task_run, matrix: Callable[[str, Manifest], None]
) -> None:
    file = made(file_format, task_run("mask-rcnn"), **SHAPES[file_format])
    manifest = read_manifest(file)
    matrix("mask-rcnn", manifest)
    assert manifest.parity.passed, parity_table(manifest.parity)
    assert manifest.parity.settled
    assert {d.output for d in manifest.parity.differences} == {"boxes", "scores", "labels", "masks"}
    assert sum(d.detections for d in manifest.parity.differences) > 100
    assert (manifest.kind, manifest.task, manifest.output) == ("task", "detect", "instances")
    assert [label.name for label in manifest.labels] == [label.name for label in LABELS]
    assert (manifest.box_format, manifest.score_threshold) == ("xyxy, input pixels", 0.05)
    assert (manifest.max_detections, manifest.size_multiple) == (30, 16)
    assert manifest.mask_format == "probability, 28 x 28 inside the box"
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 96), np.float32)
    output = load(file, "cpu")(images)
    expected = load_task_model(task_run("mask-rcnn"))(torch.from_numpy(images))
    shapes = {"boxes": (2, 30, 4), "scores": (2, 30), "labels": (2, 30), "masks": (2, 30, 28, 28)}
    for spec in manifest.outputs:
        value = getattr(output, spec.name)
        assert value.shape == shapes[spec.name]
        assert value.dtype == spec.dtype == ("int32" if spec.name == "labels" else "float32")
        np.testing.assert_allclose(value, getattr(expected, spec.name).detach(), atol=2e-3)
    assert output.logits is output.mask is None


@pytest.mark.parametrize(
    ("file_format", "kind", "options"),
    [
        ("torchscript", "faster-rcnn", {"precision": "fp16", "input": "uint8", **DYNAMIC}),
        ("torchscript", "mask-rcnn", {"precision": "bf16", **FIXED}),
        ("onnx", "faster-rcnn", {"precision": "int8", **FIXED}),
        ("onnx", "eomt instances", DYNAMIC),
        ("torchscript", "eomt instances", {"precision": "fp16", **FIXED}),
    ],
)
def test_precisions_and_heads_pass_the_gate(
    file_format: str, kind: str, options: dict, made, task_run, matrix: Callable[[str, Manifest], None]
) -> None:
    manifest = read_manifest(made(file_format, task_run(kind), **options))
    matrix(kind, manifest)
    assert manifest.parity.passed, parity_table(manifest.parity)
    assert manifest.parity.settled is (None if kind == "eomt instances" else True)
    names = {"boxes", "scores", "labels", *(["masks"] if kind != "faster-rcnn" else [])}
    assert {spec.name for spec in manifest.outputs} == names


def one_case(runner: Runner) -> Runner:
    """Limit the sizes that a runner accepts, and so the cases of the gate."""
    axes = {"batch": AxisRange(min=1, max=2, multiple_of=1)}
    axes |= {axis: AxisRange(min=64, max=64, multiple_of=16) for axis in ("height", "width")}
    runner.manifest = runner.manifest.model_copy(update={"axes": axes})
    return runner


HEAD_LAYERS = (
    "pyramid.levels.0.0.weight",
    "pyramid.levels.1.weight",
    "top_down.lateral.1.weight",
    "top_down.output.0.weight",
    "rpn.head.conv.0.0.weight",
    "rpn.head.bbox_pred.weight",
    "roi_heads.box_head.fc6.weight",
    "roi_heads.box_predictor.cls_score.weight",
    "roi_heads.box_predictor.bbox_pred.weight",
    "roi_heads.mask_head.0.0.weight",
    "roi_heads.mask_predictor.conv5_mask.weight",
    "roi_heads.mask_predictor.mask_fcn_logits.weight",
)


@pytest.mark.parametrize("layer", HEAD_LAYERS)
def test_one_percent_in_one_layer_of_the_head_is_detected(
    layer: str, task_run, scenes: ParityImages, tmp_path: Path
) -> None:
    model = load_task_model(task_run("mask-rcnn"))
    with torch.no_grad():
        model.head.state_dict()[layer].mul_(1.01)
    save_task_model(tmp_path, model, {})
    report = check_parity(load_task_model(task_run("mask-rcnn")), one_case(load(tmp_path, "cpu")), scenes)
    assert not report.passed
    assert "differs from the encoder" in failure_message(tmp_path, report)
    assert "matched" in failure_message(tmp_path, report)


class Changed:
    """Runner whose outputs are changed."""

    def __init__(self, runner: Runner, change: Callable[[TaskOutput], dict[str, np.ndarray]]) -> None:
        self.runner, self.change = runner, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def __call__(self, images: np.ndarray) -> TaskOutput:
        output = self.runner(images)
        return output._replace(**self.change(output))


def drop_best(output: TaskOutput) -> dict[str, np.ndarray]:
    """Remove the best detection of each image, as a wrong mask of slots would."""
    return {
        name: np.concatenate([value[:, 1:], 0 * value[:, :1]], axis=1)
        for name, value in output._asdict().items()
        if value is not None
    }


FAULTS: dict[str, Callable[[TaskOutput], dict[str, np.ndarray]]] = {
    "shifted boxes": lambda output: {"boxes": output.boxes + np.float32(0.1)},
    "swapped axes": lambda output: {"boxes": output.boxes[..., [1, 0, 3, 2]]},
    "swapped labels": lambda output: {"labels": (output.labels + 1) % len(LABELS)},
    "scores": lambda output: {"scores": output.scores * np.float32(0.999)},
    "clipped masks": lambda output: {"masks": output.masks.clip(0.05, 0.95)},
    "flipped masks": lambda output: {"masks": output.masks[..., ::-1]},
    "a dropped detection": drop_best,
    "not finite": lambda output: {"boxes": output.boxes * np.nan},
    "another shape": lambda output: {"masks": output.masks[..., :14]},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_an_artifact_are_detected(fault: str, task_run, scenes: ParityImages) -> None:
    runner: Any = Changed(one_case(load(task_run("mask-rcnn"), "cpu")), FAULTS[fault])
    report = check_parity(load_task_model(task_run("mask-rcnn")), runner, scenes)
    assert not report.passed
    assert not report.problem


def test_the_runner_itself_passes_in_another_order_of_slots(task_run, scenes: ParityImages) -> None:
    def reverse(output: TaskOutput) -> dict[str, np.ndarray]:
        return {name: value[:, ::-1] for name, value in output._asdict().items() if value is not None}

    runner: Any = Changed(one_case(load(task_run("mask-rcnn"), "cpu")), reverse)
    assert check_parity(load_task_model(task_run("mask-rcnn")), runner, scenes).passed


@pytest.fixture(scope="module")
def crowded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose boxes suppress each other in chains, since little overlap is enough."""
    detector = replace(SMALL_DETECTOR, masks=False, nms=0.1, rpn_nms=0.3)
    run = tmp_path_factory.mktemp("crowded")
    save_task_model(run, random_task_model(replace(task_spec("faster-rcnn"), detector=detector)), {})
    return run


@pytest.mark.parametrize("part", ["proposals", "boxes"])
def test_a_dropped_round_of_suppression_is_detected(part: str, crowded_run: Path, scenes: ParityImages) -> None:
    """Boxes that were dropped themselves drop others in a single round."""
    model, runner = load_task_model(crowded_run), one_case(load(crowded_run, "cpu"))
    assert check_parity(model, runner, scenes).passed
    getattr(runner.module.head, part).suppress.rounds = 1  # type: ignore[attr-defined]
    report = check_parity(model, runner, scenes)
    assert not report.passed
    assert report.settled


def test_a_graph_with_too_few_rounds_is_no_reference(
    crowded_run: Path, scenes: ParityImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hasty(model: TaskModel, options: ExportOptions) -> TaskGraph:
        graph = TaskGraph(model, options)
        assert isinstance(graph.head, DetectorGraph)
        for one in graph.head.suppressions():
            one.rounds = 1
        return graph

    monkeypatch.setattr(detection_parity, "TaskGraph", hasty)
    model = load_task_model(crowded_run)
    report = check_parity(model, one_case(load(crowded_run, "cpu")), scenes)
    assert (report.passed, report.settled) == (False, False)
    assert "has not settled" in failure_message(crowded_run, report)
    monkeypatch.undo()
    graph = FloatGraph(model)
    with torch.no_grad():
        graph(torch.randn(1, 3, 64, 64))
    assert graph.unsettled == 0


def test_a_gate_without_detections_fails(scenes: ParityImages, tmp_path: Path) -> None:
    spec = replace(task_spec("faster-rcnn"), detector=replace(SMALL_DETECTOR, masks=False, score_threshold=1.0))
    save_task_model(tmp_path, random_task_model(spec), {})
    report = check_parity(load_task_model(tmp_path), one_case(load(tmp_path, "cpu")), scenes)
    assert not report.passed
    assert "detects nothing in these images" in failure_message(tmp_path, report)
    assert all(difference.passed for difference in report.differences)


def test_counterparts_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]], np.float32)
    masks = np.zeros((3, 4, 4), np.float32)
    masks[:2, :2] = 0.75
    one = DetectionArrays(boxes, np.array([0.9, 0.5, 0], np.float32), np.array([1, 2, 0], np.int32), masks)
    moved = masks.copy()
    moved[1, 1] = 0.25
    other = DetectionArrays(
        boxes[[1, 0, 2]] + np.array([[0.5], [0.25], [0]], np.float32),
        np.array([0.6, 0.9, 0], np.float32),
        np.array([2, 3, 0], np.int32),
        moved[[1, 0, 2]],
    )
    errors = match_errors(one, other)
    assert errors["boxes"].tolist() == [np.inf, 0.5, np.inf]  # another class, found, empty slot
    assert errors["scores"][1] == pytest.approx(0.1)
    assert (errors["masks"][1], errors["mask_iou"].tolist()) == (0.5, [0, 0.5, 0])


def test_detections_near_the_threshold_may_be_missing() -> None:
    tolerance, case = DETECTION_TOLERANCES["fp16"], ParityCase(1, 16, 16)
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]], np.float32)
    labels = np.zeros((1, 3), np.int32)

    def passed(*scores: float) -> bool:
        """Compare with detections of 0.9 and 0.055, of which the second is within the margin of the threshold."""
        first = DetectionArrays(boxes, np.array([[0.9, 0.055, 0]], np.float32), labels, None)
        used = np.array(scores, np.float32)
        other = DetectionArrays(boxes * (used > 0)[None, :, None], used[None], labels, None)
        return all(d.passed for d in compare_detections(first, first, other, case, tolerance, 0.05, ["a"]))

    assert passed(0.9, 0.055, 0)
    assert passed(0.9, 0, 0)
    assert not passed(0, 0.055, 0)
    assert not passed(0.9, 0.2, 0)


def test_the_commands_know_detectors(gtsa_here, made, task_run, few: Path) -> None:
    file = made("torchscript", task_run("mask-rcnn"), **DYNAMIC)
    info = gtsa_here("info", file)
    assert info.returncode == 0, info.stderr
    text = " ".join(info.stdout.split())
    assert "boxes xyxy, input pixels; at most 30, scores above 0.05" in text
    assert "one more round changes nothing" in text
    verified = gtsa_here("verify", file, "--images", few)
    assert verified.returncode == 0, verified.stderr
    assert "matched" in verified.stdout + verified.stderr
    refused = gtsa_here("export", task_run("mask-rcnn"), "--format", "onnx", "--output", "mask")
    assert refused.returncode == 2
    assert "--output mask is for segmentation" in refused.stderr


def test_measured_detectors_are_compared_by_counterparts(task_run) -> None:
    model = load_task_model(task_run("faster-rcnn"))
    with torch.no_grad():
        detections: Detections = model(torch.randn(1, 3, 64, 64))
    values = compared_values(detections)
    assert values.shape == (1, 30, 6)
    same = compare_outputs(values, values[:, ::-1], is_task=True)
    assert (same.agreement, same.max_abs) == (1.0, 0.0)
    assert compare_outputs(values, np.zeros_like(values), is_task=True).agreement == 0.0
    assert compare_outputs(0 * values, 0 * values, is_task=True).problem == "no detections"
    kept = int((values[..., 4] > 0).sum())
    assert kept > 5
    assert compare_outputs(values, values[:, : kept - 1], is_task=True).agreement < 1.0
    assert compare_outputs(values, values[:, :kept], is_task=True).agreement == 1.0


def test_detectors_are_measured_beside_their_source(
    gtsa_here, made, task_run, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run in this process: processes of their own are tested with encoders."""

    class Here:
        def __init__(self, name: str, opener: Callable[[], Runner]) -> None:
            self.name, self.worker = name, BenchmarkWorker(opener)

        def call(self, method: str, *args: Any) -> Any:
            return getattr(self.worker, method)(*args)

    @contextmanager
    def workers(openers: dict[str, Callable[[], Runner]]) -> Iterator[list[Here]]:
        yield [Here(name, opener) for name, opener in openers.items()]

    monkeypatch.setattr(compare, "start_workers", workers)
    file, run = made("torchscript", task_run("mask-rcnn"), **DYNAMIC), task_run("mask-rcnn")
    options = ["--batch", "1,4", "--size", "64x96", "--seconds", "0", "--images", few, "--json"]
    done = gtsa_here("bench", file, run, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    speeds = {(one["name"], one["shape"]["batch"]): one for one in report["speeds"]}
    assert speeds.keys() == {(file.name, 1), (run.name, 1), (run.name, 4)}
    for (name, batch), one in speeds.items():
        assert (one["agreement"], one["problem"], one["min_cosine"]) == (1.0, "", None)
        assert one["max_abs"] < 1e-3  # pixels, to the source in float32
        assert one["gate"] == ("passed" if name == file.name else "none")
        assert (one["ratio"] is None) == (batch == 4)
    assert [one["reason"] for one in report["skipped"]] == ["batch must be 1 to 3, got 4; nearest: 3"]


def test_triton_serves_detections(gtsa_here, made, task_run, tmp_path: Path) -> None:
    file = made("onnx", task_run("mask-rcnn"), **DYNAMIC)
    done = gtsa_here("export", file, "--format", "triton", "--out", tmp_path / "models", "--name", "detector")
    assert done.returncode == 0, done.stderr
    config = " ".join((tmp_path / "models" / "detector" / "config.pbtxt").read_text().split())
    assert 'name: "boxes" data_type: TYPE_FP32 dims: [30, 4]' in config
    assert 'name: "labels" data_type: TYPE_INT32 dims: [30]' in config
    assert 'name: "masks" data_type: TYPE_FP32 dims: [30, 28, 28]' in config


@pytest.mark.parametrize("kind", ["mask-rcnn", "eomt instances"])
def test_an_engine_is_built_for_any_batch_and_size(
    kind: str, gtsa_here, made, task_run, few: Path, tmp_path: Path
) -> None:
    """Build without a GPU: no operator of a detector is refused, and no plugin is needed."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    import onnx

    graph, engine = made("onnx", task_run(kind), **DYNAMIC), tmp_path / "model.engine"
    used = {node.op_type for node in onnx.load(graph).graph.node}
    assert not used & {"NonZero", "NonMaxSuppression", "RoiAlign", "Loop", "If"}
    options = ["--batch", "1:2:3", "--max-size", "96", "--images", few, "--out", engine]
    done = gtsa_here("export", graph, "--format", "trt", "--runtime", "tensorrt-rtx", "--precision", "fp32", *options)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(engine)
    assert manifest.engine.graph.parity.passed
    assert manifest.engine.profile == ((1, 3, 32, 32), (2, 3, 96, 96), (3, 3, 96, 96))
    assert [(one.name, one.dtype) for one in manifest.outputs] == [
        ("boxes", "float32"),
        ("scores", "float32"),
        ("labels", "int32"),
        ("masks", "float32"),
    ]
