"""Parity gate: comparison of an artifact with the float32 PyTorch encoder on images, at several input shapes."""

import copy
from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch

from gtsa_kit.export.comparison import NOT_FINITE, compare_output
from gtsa_kit.export.detection_parity import check_detection_parity
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.overflow import explain_not_finite
from gtsa_kit.export.parity_cases import ParityCase, parity_cases
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.parity_report import Difference, ParityReport
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP, layer_output
from gtsa_kit.export.task_parity import check_task_parity, preprocessing_mismatch
from gtsa_kit.export.tolerances import TOLERANCES
from gtsa_kit.models.architecture import EMBEDDING_NAMES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.task_model import TaskModel


def check_parity(
    reference: Encoder | TaskModel,
    runner: Runner,
    images: ParityImages,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> ParityReport:
    """Compare a runner with the float32 encoder or task model on every case of the gate.

    The artifact's input is prepared with the preprocessing of its manifest, the reference's input with its own. The
    two descriptions of the preprocessing must also be equal: the difference between bilinear and bicubic resizing is
    smaller than the rounding of int8.

    Args:
        reference: The encoder or task model; it is converted to float32 on the CPU.
        runner: Runner of the artifact.
        images: Images to compare on; larger batches repeat them.
        on_case: Called with (cases done, all cases).

    Returns:
        Report with the difference of every output in every case.

    Raises:
        ValueError: The artifact was exported from an encoder of another width, depth or embedding, or for another task.
    """
    manifest = runner.manifest
    if isinstance(reference, TaskModel):
        check = check_detection_parity if reference.spec.detector else check_task_parity
        return check(reference, runner, images, on_case)
    if manifest.kind != "encoder":
        raise ValueError("the file is of a fine-tuned model, the weights are an encoder; name the run with --against")
    _check_same_encoder(reference, manifest)
    tolerance = TOLERANCES[manifest.precision]
    reference = copy.copy(reference.to("cpu").float().eval())
    reference.layers = manifest.layers
    mismatch = preprocessing_mismatch(reference.preprocessing, runner.preprocessing)
    cases = parity_cases(*(manifest.range_of(axis) for axis in ("batch", "height", "width")))
    differences: list[Difference] = []
    for done, case in enumerate(cases, 1):
        expected, actual, names = _run_case(reference, runner, images, case)
        ours = _outputs(expected)
        for output, actual_values in _outputs(actual).items():
            difference = compare_output(output, np.asarray(ours[output]), actual_values, case, tolerance, names)
            differences.append(difference)
        on_case(done, len(cases))
    advice = _advice(reference, manifest.precision, images, differences)
    return ParityReport(
        runtime=runner.provider,
        images=images.origin,
        tolerance=asdict(tolerance),
        preprocessing=mismatch,
        advice=advice,
        passed=not mismatch and all(difference.passed for difference in differences),
        differences=tuple(differences),
    )


def _check_same_encoder(reference: Encoder, manifest: Manifest) -> None:
    architecture = reference.architecture
    hint = "name the run or the weights that it was exported from"
    if manifest.dim != architecture.width:
        raise ValueError(f"the file has features of width {manifest.dim}, the encoder of {architecture.width}; {hint}")
    if manifest.embedding != architecture.embedding:
        theirs, ours = (EMBEDDING_NAMES.get(kind, kind) for kind in (manifest.embedding, architecture.embedding))
        option = f"add --embedding {manifest.embedding}, or " if manifest.embedding in ("mean", "cls") else ""
        raise ValueError(f"the file's embedding is {theirs}, that of the encoder {ours}; {option}{hint}")
    if manifest.has_class_token and not architecture.has_class_token:
        raise ValueError(f"the file has a class token, the encoder has none; {hint}")
    if missing := [layer for layer in manifest.layers if layer >= architecture.depth]:
        raise ValueError(
            f"the file has a map of block {missing[0]}, the encoder has {architecture.depth} blocks; {hint}"
        )


def _advice(reference: Encoder, precision: str, images: ParityImages, differences: list[Difference]) -> str:
    """Explain the first case whose outputs are not finite; "" if there is none."""
    first = next((difference for difference in differences if difference.problem == NOT_FINITE), None)
    if first is None:
        return ""
    batch, size = islice(cycle(images.images), first.batch), (first.height, first.width)
    prepared = np.stack([reference.preprocessing(image, size) for image in batch])
    return explain_not_finite(reference, precision, torch.from_numpy(prepared))


def _run_case(
    reference: Encoder, runner: Runner, images: ParityImages, case: ParityCase
) -> tuple[Features, Features, list[str]]:
    """Run both sides on one batch: features of the reference, features of the artifact, names of the images."""
    batch, names = list(islice(cycle(images.images), case.batch)), list(islice(cycle(images.names), case.batch))
    size = (case.height, case.width)
    with torch.inference_mode():
        prepared = np.stack([reference.preprocessing(image, size) for image in batch])
        expected = reference(torch.from_numpy(prepared))
    actual = runner(np.stack([runner.prepare(image, size) for image in batch]))
    return expected, actual, names


def _outputs(features: Features) -> dict[str, Any]:
    maps = {layer_output(layer): values for layer, values in sorted(features.layers.items())}
    class_token = {} if features.class_token is None else {CLASS_TOKEN: features.class_token}
    return {EMBEDDING: features.embedding, FEATURE_MAP: features.feature_map, **maps, **class_token}
