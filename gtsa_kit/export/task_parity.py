"""Parity gate of task models: logits or masks of an artifact beside those of the float32 PyTorch model."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle, islice
from typing import Final

import numpy as np
import torch

from gtsa_kit.export.comparison import NOT_FINITE
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.overflow import explain_not_finite
from gtsa_kit.export.parity_cases import ParityCase, parity_cases
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.parity_report import Difference, ParityReport
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.task_comparison import compare_task_output, in_logits, logits_std
from gtsa_kit.export.tolerances import TASK_TOLERANCES
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.task_model import TaskModel

REFERENCE: Final = "gtsa-kit task model, float32, PyTorch"


def check_task_parity(
    reference: TaskModel, runner: Runner, images: ParityImages, on_case: Callable[[int, int], None] = lambda *_: None
) -> ParityReport:
    """Compare a runner with the float32 task model on every case of the gate; see `parity.check_parity`.

    Raises:
        ValueError: The artifact is for another task or other classes.
    """
    manifest = runner.manifest
    check_same_task(reference, manifest)
    reference = reference.to("cpu").float().eval()
    mismatch = preprocessing_mismatch(reference.encoder.preprocessing, runner.preprocessing)
    cases = parity_cases(*(manifest.range_of(axis) for axis in ("batch", "height", "width")))
    std = _logits_std(reference, runner, images)
    tolerance = in_logits(TASK_TOLERANCES[manifest.precision], std)
    differences: list[Difference] = []
    for done, case in enumerate(cases, 1):
        names = list(islice(cycle(images.names), case.batch))
        expected = _reference_logits(reference, images, case)
        batch = [runner.prepare(image, (case.height, case.width)) for image in islice(cycle(images.images), case.batch)]
        output = runner(np.stack(batch))
        for name, actual in output._asdict().items():
            if actual is not None:
                differences.append(compare_task_output(name, expected, actual, case, tolerance, names))
        on_case(done, len(cases))
    return ParityReport(
        reference=REFERENCE,
        runtime=runner.provider,
        images=images.origin,
        tolerance={**asdict(tolerance), "logits_std": std},
        preprocessing=mismatch,
        advice=advice_on(reference, manifest, images, differences),
        passed=not mismatch and all(difference.passed for difference in differences),
        differences=tuple(differences),
    )


def check_same_task(reference: TaskModel, manifest: Manifest) -> None:
    """Raise `ValueError` unless an artifact has the task, the width and the classes of a model."""
    spec, hint = reference.spec, "name the run that it was exported from"
    if manifest.task is None:
        raise ValueError(f"the file is of an encoder, the weights are of a fine-tuned model; {hint}")
    if manifest.task != spec.task:
        raise ValueError(f"the file is for the task {manifest.task}, the model for {spec.task}; {hint}")
    if manifest.dim != reference.encoder.architecture.width:
        width = reference.encoder.architecture.width
        raise ValueError(f"the file has features of width {manifest.dim}, the model of {width}; {hint}")
    ours, theirs = [label.name for label in spec.labels], [label.name for label in manifest.labels]
    if ours != theirs:
        changed = next((name for name in theirs if name not in ours), f"{len(theirs)} in another order")
        raise ValueError(f"the file has other classes than the model, such as {changed}; {hint}")


def preprocessing_mismatch(expected: Preprocessing, actual: Preprocessing) -> str:
    """Name the settings in which the artifact's preprocessing differs; "" if there are none."""
    ours, theirs = expected.to_dict(), actual.to_dict()
    return "; ".join(f"{name} {theirs.get(name)} for {ours[name]}" for name in ours if ours[name] != theirs.get(name))


def _logits_std(reference: TaskModel, runner: Runner, images: ParityImages) -> float:
    """Return the standard deviation of the reference's logits over all images, at the base size if that is accepted."""
    base = reference.encoder.preprocessing.size
    case = ParityCase(len(images.images), *runner.nearest_size(base, base))
    return max(logits_std(_reference_logits(reference, images, case)), 1e-12)


def _reference_logits(reference: TaskModel, images: ParityImages, case: ParityCase) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(reference(_prepared(reference, images, case.batch, case.height, case.width)))


def _prepared(reference: TaskModel, images: ParityImages, batch: int, height: int, width: int) -> torch.Tensor:
    preprocessing = reference.encoder.preprocessing
    chosen = islice(cycle(images.images), batch)
    return torch.from_numpy(np.stack([preprocessing(image, (height, width)) for image in chosen]))


def advice_on(reference: TaskModel, manifest: Manifest, images: ParityImages, differences: list[Difference]) -> str:
    """Explain the first case whose outputs are not finite; "" if there is none."""
    first = next((difference for difference in differences if difference.problem == NOT_FINITE), None)
    if first is None:
        return ""
    prepared = _prepared(reference, images, first.batch, first.height, first.width)
    return explain_not_finite(reference, manifest.precision, prepared)
