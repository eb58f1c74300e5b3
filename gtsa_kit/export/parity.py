"""Proof that an artifact computes what the float32 PyTorch encoder computes, on images, at several shapes."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gtsa_kit.data.image_files import sample_images
from gtsa_kit.data.image_io import open_image
from gtsa_kit.export.manifest import Difference, ParityReport
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, TOLERANCES, Case, Tolerance, cases_within, layer_output
from gtsa_kit.models.encoder import Encoder, Features, Preprocessing

IMAGES = 7
"""The largest batch of the gate, so that no image of it is there twice."""


@dataclass(frozen=True)
class ParityImages:
    """Images to compare on, and where they came from."""

    images: list[Image.Image]
    origin: str
    names: list[str]


def parity_images(folder: Path | None) -> ParityImages:
    """Up to `IMAGES` of a folder, evenly spread over it; without one, pieces of an image in matplotlib.

    Raises:
        ValueError: A folder was given and no image in it can be read.
    """
    if folder is None:
        from matplotlib import cbook

        whole = open_image(Path(cbook._get_data_path("sample_data", "grace_hopper.jpg")))
        side = min(whole.size) // 2
        corners = [(x * side // 2, y * side // 2) for y in range(3) for x in range(3)][:IMAGES]
        pieces = [whole.crop((x, y, x + side, y + side)) for x, y in corners]
        names = [f"piece at {x}, {y}" for x, y in corners]
        return ParityImages(pieces, "pieces of matplotlib's sample image", names)
    images, names = sample_images(folder, IMAGES)
    return ParityImages(images, f"{len(images)} images of {folder.name}", names)


def check_parity(
    reference: Encoder, runner: Runner, images: ParityImages, on_case: Callable[[int, int], None] = lambda *_: None
) -> ParityReport:
    """Compare a runner with the float32 encoder on every case of the gate.

    Each case goes through the artifact's own account of the preprocessing on one side and the reference's on the
    other. The two accounts must also be equal: in int8, bilinear for bicubic would be lost in the rounding.

    Args:
        reference: In float32.
        runner: Of the artifact.
        images: Images; they repeat where a batch is larger.
        on_case: Told (cases done, cases in all).
    """
    manifest = runner.manifest
    tolerance = TOLERANCES[manifest.precision]
    reference = copy.copy(reference.to("cpu").float().eval())
    reference.layers = manifest.layers
    disagreement = _disagreement(reference.preprocessing, runner.preprocessing)
    cases = cases_within(*(manifest.range_of(axis) for axis in ("batch", "height", "width")))
    differences: list[Difference] = []
    for done, case in enumerate(cases, 1):
        batch, names = list(islice(cycle(images.images), case.batch)), list(islice(cycle(images.names), case.batch))
        size = (case.height, case.width)
        with torch.inference_mode():
            prepared = np.stack([reference.preprocessing(image, size) for image in batch])
            expected = reference(torch.from_numpy(prepared))
        got = runner(np.stack([runner.prepare(image, size) for image in batch]))
        for (output, wanted), found in zip(_outputs(expected), _outputs(got), strict=True):
            differences.append(compare_output(output, np.asarray(wanted), found[1], case, tolerance, names))
        on_case(done, len(cases))
    return ParityReport(
        runtime=runner.provider,
        images=images.origin,
        tolerance=asdict(tolerance),
        preprocessing=disagreement,
        passed=not disagreement and all(difference.passed for difference in differences),
        differences=tuple(differences),
    )


def compare_output(
    output: str, expected: np.ndarray, got: np.ndarray, case: Case, tolerance: Tolerance, names: Sequence[str] = ()
) -> Difference:
    """Measure one output: (B, D) embeddings, or (B, D, h, w) maps token by token. Other shapes fail at once.

    Args:
        output: Its name, for the report.
        expected: Of the reference.
        got: Of the artifact.
        case: The shape of the input, for the report.
        tolerance: What is still right.
        names: Of the images of the batch, for the report; by default their places.
    """
    if expected.shape != got.shape:
        return _failed(output, case, names[0] if names else "")
    wanted, found = _tokens(expected), _tokens(got)
    error = np.abs(wanted - found)
    cosine = np.sum(_unit(wanted) * _unit(found), axis=1)
    neighbors = neighbor_agreement(wanted, found)
    worst = int(np.nan_to_num(cosine, nan=-1e30).argmin()) * len(expected) // len(cosine)
    # Written so that a NaN anywhere is a failure.
    passed = (
        error.max() <= tolerance.max_abs
        and error.mean() <= tolerance.mean_abs
        and cosine.min() >= tolerance.min_cosine
        and (neighbors is None or neighbors >= tolerance.neighbors)
    )
    return Difference(
        output=output,
        **asdict(case),
        max_abs=_finite(error.max()),
        mean_abs=_finite(error.mean()),
        min_cosine=_finite(cosine.min()),
        mean_cosine=_finite(cosine.mean()),
        neighbors=neighbors,
        image=names[worst] if names else f"image {worst}",
        passed=bool(passed),
    )


def neighbor_agreement(wanted: np.ndarray, found: np.ndarray, tie: float = 1e-5) -> float | None:
    """Share of rows (N, D) whose cosine nearest neighbor among the other rows is the same in both.

    A neighbor that the reference puts within `tie` of its own best counts as the same. None for fewer than 3 rows.
    """
    if len(wanted) < 3:
        return None
    similar, similar_found = _unit(wanted) @ _unit(wanted).T, _unit(found) @ _unit(found).T
    np.fill_diagonal(similar, -2)
    np.fill_diagonal(similar_found, -2)
    chosen = similar[np.arange(len(wanted)), similar_found.argmax(axis=1)]
    return float(np.mean(chosen >= similar.max(axis=1) - tie))


def _disagreement(wanted: Preprocessing, found: Preprocessing) -> str:
    ours, theirs = wanted.to_dict(), found.to_dict()
    return "; ".join(f"{name} {theirs[name]} for {ours[name]}" for name in ours if ours[name] != theirs[name])


def _outputs(features: Features) -> list[tuple[str, Any]]:
    maps = [(layer_output(layer), found) for layer, found in features.layers.items()]
    return [(EMBEDDING, features.embedding), (FEATURE_MAP, features.feature_map), *sorted(maps)]


def _tokens(values: np.ndarray) -> np.ndarray:
    """(B, D) as it is, (B, D, h, w) to (B*h*w, D); in float64."""
    rows = values if values.ndim == 2 else np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return rows.astype(np.float64)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(norms, 1e-12)
    return unit


def _finite(value: float) -> float:
    """JSON has no NaN; a number that large or that low reads as what it is, a failure."""
    return float(np.nan_to_num(value, nan=-1e30, posinf=1e30, neginf=-1e30))


def _failed(output: str, case: Case, image: str) -> Difference:
    return Difference(
        output=output,
        **asdict(case),
        max_abs=1e30,
        mean_abs=1e30,
        min_cosine=-1,
        mean_cosine=-1,
        neighbors=0,
        image=image,
        passed=False,
    )
