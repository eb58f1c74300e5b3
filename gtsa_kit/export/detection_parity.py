"""Parity gate of detectors: detections of an artifact beside those of the float32 PyTorch model."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.export.detection_comparison import DetectionArrays, compare_detections, counted
from gtsa_kit.export.detector_graph import DetectorGraph
from gtsa_kit.export.detector_layers import Suppression
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_cases import ParityCase, parity_cases
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.parity_report import Difference, ParityReport
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.export.task_graph import TaskGraph, options_for
from gtsa_kit.export.task_parity import advice_on, check_same_task, preprocessing_mismatch
from gtsa_kit.export.tolerances import DETECTION_TOLERANCES
from gtsa_kit.models.task_model import TaskModel

REFERENCE: Final = "gtsa-kit detector, float32, PyTorch"
NOISE: Final = 1e-5
"""Standard deviation of the noise of the second computation's normalized images, the size of float32 rounding."""
MIN_SIDE: Final = 4
"""Shortest side of an image in patches: on smaller maps different proposals read the same vectors and get equal scores,
so that their order is chance."""
NO_DETECTION: Final = (
    "the float32 model detects nothing in these images, so nothing was compared; name images with objects of its "
    "classes with --images"
)


def check_detection_parity(
    reference: TaskModel, runner: Runner, images: ParityImages, on_case: Callable[[int, int], None] = lambda *_: None
) -> ParityReport:
    """Compare a runner with the float32 detector on every case of the gate; see `parity.check_parity`.

    The graph that is exported runs in float32 too, on images with a little noise: what differs from the reference is
    no fault of the artifact, and suppression is checked to have settled.

    Raises:
        ValueError: The artifact is for another task or other classes.
    """
    manifest, spec = runner.manifest, reference.spec
    assert spec.detector is not None
    check_same_task(reference, manifest)
    reference = reference.to("cpu").float().eval()
    cases = detection_cases(manifest)
    tolerance, graph = DETECTION_TOLERANCES[manifest.precision], FloatGraph(reference)
    differences: list[Difference] = []
    detections = 0
    for done, case in enumerate(cases, 1):
        expected, repeated, actual = _run_case(reference, graph, runner, images, case)
        names = list(islice(cycle(images.names), case.batch))
        threshold = spec.detector.score_threshold
        differences += compare_detections(expected, repeated, actual, case, tolerance, threshold, names)
        detections += sum(int(counted(expected.image(i), threshold, 0).sum()) for i in range(case.batch))
        on_case(done, len(cases))
    mismatch = preprocessing_mismatch(reference.encoder.preprocessing, runner.preprocessing)
    problem = _problem(detections, graph.unsettled)
    return ParityReport(
        reference=REFERENCE,
        runtime=runner.provider,
        images=images.origin,
        tolerance=asdict(tolerance),
        preprocessing=mismatch,
        advice=advice_on(reference, manifest, images, differences),
        problem=problem,
        settled=not graph.unsettled if graph.suppressions else None,
        passed=not mismatch and not problem and all(difference.passed for difference in differences),
        differences=tuple(differences),
    )


def detection_cases(manifest: Manifest) -> tuple[ParityCase, ...]:
    """Return the cases of the gate with sides of at least `MIN_SIDE` patches, where an artifact takes them."""
    ranges = {axis: manifest.range_of(axis) for axis in ("batch", "height", "width")}
    least = {axis: ranges[axis].clamp(MIN_SIDE * manifest.patch) for axis in ("height", "width")}
    return tuple(
        dict.fromkeys(
            ParityCase(case.batch, max(case.height, least["height"]), max(case.width, least["width"]))
            for case in parity_cases(*ranges.values())
        )
    )


class FloatGraph:
    """The graph that is exported, in float32, which counts the suppressions that one more round would change."""

    def __init__(self, reference: TaskModel) -> None:
        """Build the graph of a detector."""
        self.graph = TaskGraph(reference, options_for(reference, ExportOptions()))
        head = self.graph.head
        self.suppressions, self.unsettled = head.suppressions() if isinstance(head, DetectorGraph) else (), 0

    def __call__(self, images: Tensor) -> DetectionArrays:
        """Compute detections of normalized images."""
        with ExitStack() as hooks:
            for one in self.suppressions:
                hooks.callback(one.register_forward_hook(self._check).remove)
            boxes, scores, labels, *masks = self.graph(images)
        return DetectionArrays(boxes.numpy(), scores.numpy(), labels.numpy(), masks[0].numpy() if masks else None)

    def _check(self, module: Suppression, inputs: Any, kept: Tensor) -> None:
        self.unsettled += not module.settled(kept, *inputs)


def _run_case(
    reference: TaskModel, graph: FloatGraph, runner: Runner, images: ParityImages, case: ParityCase
) -> tuple[DetectionArrays, DetectionArrays, DetectionArrays]:
    """Return the detections of the reference, of its repetition, and of the artifact."""
    batch, size = list(islice(cycle(images.images), case.batch)), (case.height, case.width)
    prepared = torch.from_numpy(np.stack([reference.encoder.preprocessing(image, size) for image in batch]))
    noise = torch.randn(prepared.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, repeated = DetectionArrays.of(reference(prepared)), graph(prepared + NOISE * noise)
    actual = runner(np.stack([runner.prepare(image, size) for image in batch]))
    return expected, repeated, DetectionArrays.of(actual)


def _problem(detections: int, unsettled: int) -> str:
    """Return why a comparison proves nothing; "" if it does."""
    if not detections:
        return NO_DETECTION
    if unsettled:
        return (
            f"non-maximum suppression has not settled in {unsettled} of its runs: one more round changes the result; "
            "boxes of the model overlap in longer chains than the graph has rounds"
        )
    return ""
