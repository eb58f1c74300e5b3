"""Checks of an artifact that need no reference: what holds for any file of a gtsa-kit encoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_cases import ParityCase, parity_cases
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.tolerances import TASK_TOLERANCES, TOLERANCES
from gtsa_kit.models.outputs import Features, TaskOutput


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    passed: bool
    message: str


def self_check(
    runner: Runner, images: ParityImages, on_case: Callable[[int, int], None] = lambda *_: None
) -> tuple[Check, ...]:
    """Check shapes, finite values, repeatability, and that the embedding is what the manifest says.

    The embedding can be compared with the feature map if it is its mean, and with the class token if that is an output.

    Args:
        runner: Runner of the artifact.
        images: Images to run on.
        on_case: Called with (cases done, all cases).
    """
    manifest, tolerance = runner.manifest, TOLERANCES[runner.manifest.precision].max_abs
    cases = parity_cases(*(manifest.range_of(axis) for axis in ("batch", "height", "width")))
    facts = _facts(manifest)
    wrong: dict[str, list[str]] = {name: [] for name in facts}
    for done, case in enumerate(cases, 1):
        size = (case.height, case.width)
        batch = np.stack([runner.prepare(image, size) for image in islice(cycle(images.images), case.batch)])
        outputs, again = runner(batch), runner(batch)
        where = f"{case.batch} x {case.height} x {case.width}"
        if isinstance(outputs, TaskOutput):
            failures = _task_failures(outputs, again, case, manifest)
        else:
            failures = _failures(outputs, again, case, manifest, tolerance)
        for name in failures:
            wrong[name].append(where)
        on_case(done, len(cases))
    count = f"at {len(cases)} input shapes"
    return tuple(
        Check(name, not failed, f"not so at {failed[0]}: {facts[name]}" if failed else f"{facts[name]}, {count}")
        for name, failed in wrong.items()
    )


def _facts(manifest: Manifest) -> dict[str, str]:
    """Return what is checked, by the name of the check."""
    facts = {
        "shapes": "outputs have the shapes of the manifest",
        "finite": "outputs are finite",
        "repeatable": "two runs give the same outputs",
    }
    if manifest.task:
        return facts
    if manifest.embedding == "mean":
        facts["embedding"] = "the embedding is the mean of the feature map"
    elif manifest.embedding == "cls" and manifest.has_class_token:
        facts["embedding"] = "the embedding is the class token"
    return facts


def _task_failures(outputs: TaskOutput, again: TaskOutput, case: ParityCase, manifest: Manifest) -> Iterator[str]:
    """Yield the names of the checks that the results of one batch, computed twice, fail."""
    if outputs.boxes is not None:
        yield from _detection_failures(outputs, again, case, manifest)
        return
    first, second = (one.mask if one.logits is None else one.logits for one in (outputs, again))
    pixels = (case.height, case.width) if manifest.task == "segment" else ()
    classes = () if outputs.logits is None else (len(manifest.labels),)
    if first.shape != (case.batch, *classes, *pixels):
        yield "shapes"
        return
    if not np.isfinite(first).all():
        yield "finite"
        return
    tolerance = TASK_TOLERANCES[manifest.precision].max_abs * max(float(np.std(first)), 1e-12)
    if np.abs(first.astype(np.float64) - second).max() > (tolerance if classes else 0):
        yield "repeatable"


def _detection_failures(outputs: TaskOutput, again: TaskOutput, case: ParityCase, manifest: Manifest) -> Iterator[str]:
    """Yield the names of the checks that the detections of one batch, computed twice, fail."""
    arrays = {spec.name: getattr(outputs, spec.name) for spec in manifest.outputs}
    if any(arrays[spec.name].shape != (case.batch, *spec.shape[1:]) for spec in manifest.outputs):
        yield "shapes"
    elif not all(np.isfinite(array).all() for array in arrays.values()):
        yield "finite"
    elif any((array != getattr(again, name)).any() for name, array in arrays.items()):
        yield "repeatable"


def _failures(
    features: Features, again: Features, case: ParityCase, manifest: Manifest, tolerance: float
) -> Iterator[str]:
    """Yield the names of the checks that outputs of one batch, computed twice, fail."""
    vectors = [features.embedding, *([] if features.class_token is None else [features.class_token])]
    maps = [features.feature_map, *features.layers.values()]
    expected = (case.batch, manifest.dim)
    if any(value.shape != expected for value in vectors) or any(value.shape[:2] != expected for value in maps):
        yield "shapes"
        return
    if not all(np.isfinite(value).all() for value in (*vectors, *maps)):
        yield "finite"
        return
    if np.abs(features.feature_map - again.feature_map).max() > tolerance:
        yield "repeatable"
    if manifest.embedding == "mean":
        pooled = features.feature_map.mean((2, 3))
    else:
        pooled = features.class_token if manifest.embedding == "cls" else None
    if pooled is not None and np.abs(pooled - features.embedding).max() > tolerance:
        yield "embedding"
