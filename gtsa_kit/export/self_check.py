"""Checks of an artifact that need no reference: what holds for any file of a gtsa-kit encoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import FEATURE_MAP, TOLERANCES, ParityCase, layer_output, parity_cases
from gtsa_kit.models.encoder import Features


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    passed: bool
    message: str


def self_check(
    runner: Runner, images: ParityImages, on_case: Callable[[int, int], None] = lambda *_: None
) -> tuple[Check, ...]:
    """Check shapes, finite values, repeatability, and that the embedding is the mean of the feature map.

    Args:
        runner: Runner of the artifact.
        images: Images to run on.
        on_case: Called with (cases done, all cases).
    """
    manifest, tolerance = runner.manifest, TOLERANCES[runner.manifest.precision].max_abs
    cases = parity_cases(*(manifest.range_of(axis) for axis in ("batch", "height", "width")))
    wrong: dict[str, list[str]] = {"shapes": [], "finite": [], "repeatable": [], "embedding": []}
    for done, case in enumerate(cases, 1):
        size = (case.height, case.width)
        batch = np.stack([runner.prepare(image, size) for image in islice(cycle(images.images), case.batch)])
        features = runner(batch)
        where = f"{case.batch} x {case.height} x {case.width}"
        for name in _failures(features, runner(batch), case, manifest.dim, tolerance):
            wrong[name].append(where)
        on_case(done, len(cases))
    count = f"at {len(cases)} input shapes"
    facts = {
        "shapes": "outputs have the shapes of the manifest",
        "finite": "outputs are finite",
        "repeatable": "two runs give the same outputs",
        "embedding": "the embedding is the mean of the feature map",
    }
    return tuple(
        Check(name, not failed, f"not so at {failed[0]}: {facts[name]}" if failed else f"{facts[name]}, {count}")
        for name, failed in wrong.items()
    )


def _failures(features: Features, again: Features, case: ParityCase, dim: int, tolerance: float) -> Iterator[str]:
    """Yield the names of the checks that outputs of one batch, computed twice, fail."""
    maps = {FEATURE_MAP: features.feature_map, **{layer_output(k): value for k, value in features.layers.items()}}
    expected = (case.batch, dim)
    if features.embedding.shape != expected or any(value.shape[:2] != expected for value in maps.values()):
        yield "shapes"
        return
    if not all(np.isfinite(value).all() for value in (features.embedding, *maps.values())):
        yield "finite"
        return
    if np.abs(features.feature_map - again.feature_map).max() > tolerance:
        yield "repeatable"
    if np.abs(features.feature_map.mean((2, 3)) - features.embedding).max() > tolerance:
        yield "embedding"
