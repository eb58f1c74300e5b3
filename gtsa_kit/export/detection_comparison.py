"""Comparison of detections, which are matched by class and overlap: near-ties of scores swap slots."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, Final, NamedTuple

import numpy as np

from gtsa_kit.export.comparison import NOT_FINITE
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_report import Difference
from gtsa_kit.export.spec import BOXES, LABELS, MASKS, SCORES
from gtsa_kit.export.tolerances import DetectionTolerance

NAMES: Final = (BOXES, SCORES, LABELS, MASKS)
MIN_IOU: Final = 0.5
"""Intersection over union from which on detections of one class are counterparts."""
TIE: Final = 1e-3
"""Weight of the difference of scores beside the overlap, in the choice of the counterpart."""
FEW: Final = 20
"""Number of detections below which none may differ; from it on the share that may is rounded up."""


class DetectionArrays(NamedTuple):
    """Detections of a batch as numpy arrays, see `models.detector.Detections`."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None

    @classmethod
    def of(cls, outputs: Any) -> "DetectionArrays":
        """Take over tensors or arrays with these names."""
        arrays = (getattr(outputs, name) for name in cls._fields)
        return cls(*(None if one is None else np.asarray(one) for one in arrays))  # type: ignore[arg-type]

    def image(self, index: int) -> "DetectionArrays":
        """Return the detections of one image."""
        return DetectionArrays(*(None if one is None else one[index] for one in self))  # type: ignore[arg-type]


@dataclass
class Errors:
    """Errors of the detections of several images by output; a detection without counterpart has infinite ones."""

    values: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in (*NAMES, "mask_iou")})
    missing: list[int] = field(default_factory=list)
    """Number of detections without a counterpart by image."""

    def add(self, errors: dict[str, np.ndarray]) -> None:
        """Add the errors of one image."""
        for name, value in errors.items():
            self.values[name].append(value)
        self.missing.append(int(np.isinf(errors[BOXES]).sum()))

    def joined(self, name: str) -> np.ndarray:
        """Return the errors of an output of all detections."""
        return np.concatenate([np.zeros(0), *self.values[name]])


def compare_detections(
    expected: DetectionArrays,
    repeated: DetectionArrays,
    actual: DetectionArrays,
    case: ParityCase,
    tolerance: DetectionTolerance,
    threshold: float,
    names: Sequence[str],
) -> list[Difference]:
    """Measure the differences of detections both ways: of the reference's, and of the artifact's.

    Detections whose score is within the tolerance of scores of the threshold, or of the last slot, may be missing.

    Args:
        expected: Detections of the reference.
        repeated: Detections of the reference with other rounding: where they differ from `expected`, two detections are
            so near in score that either may suppress the other, and either is right.
        actual: Detections of the artifact.
        case: The shape of the input, for the report.
        tolerance: Bounds.
        threshold: Score threshold of the model.
        names: Names of the batch's images, for the report.

    Returns:
        One difference for each output.
    """
    outputs = [name for name in NAMES if getattr(expected, name) is not None]
    if problem := _problem(expected, actual, outputs):
        return [Difference(output=BOXES, **asdict(case), problem=problem, image=names[0], passed=False)]
    errors = Errors()
    for i in range(len(names)):
        first, other, own = expected.image(i), repeated.image(i), actual.image(i)
        sure = counted(first, threshold, tolerance.scores) & _agrees(first, other, tolerance)
        errors.add({key: value[sure] for key, value in match_errors(first, own).items()})
        here = counted(own, threshold, tolerance.scores)
        either = [match_errors(own, one) for one in (first, other)]
        better = np.argmin([error[BOXES] for error in either], axis=0)
        errors.add({key: np.where(better == 0, either[0][key], either[1][key])[here] for key in either[0]})
    return [_difference(name, errors, case, tolerance, names) for name in outputs]


def counted(one: DetectionArrays, threshold: float, margin: float) -> np.ndarray:
    """Return which detections (N,) of an image can't be missing: well above the threshold and the last slot."""
    lowest = max(threshold, float(one.scores.min())) if len(one.scores) else threshold
    above: np.ndarray = one.scores > lowest + margin
    return above


def match_errors(one: DetectionArrays, other: DetectionArrays) -> dict[str, np.ndarray]:
    """Return the errors of each detection of an image (N,) against its counterpart in another computation.

    Returns:
        By output: the largest difference of a coordinate in pixels, that of the score, 0 if there is a counterpart,
        and the largest difference of a mask; infinite where there is no counterpart. `mask_iou` is the intersection
        over union of the masks at 0.5.
    """
    overlap = _iou(one.boxes, other.boxes)
    same = (one.labels[:, None] == other.labels[None]) & (other.scores > 0)[None]
    overlap = np.where(same, overlap, -1.0)
    paired = overlap.max(axis=1) >= MIN_IOU
    # Detections that no suppression chose from may have equal boxes: of these the one of the nearest score.
    best = (overlap - TIE * np.abs(one.scores[:, None] - other.scores[None])).argmax(axis=1)
    errors = {
        BOXES: np.abs(one.boxes.astype(np.float64) - other.boxes[best]).max(axis=1),
        SCORES: np.abs(one.scores.astype(np.float64) - other.scores[best]),
        LABELS: np.zeros(len(paired)),
        MASKS: np.zeros(len(paired)),
    }
    iou = np.ones(len(paired))
    if one.masks is not None and other.masks is not None:
        theirs = other.masks[best]
        errors[MASKS] = np.abs(one.masks.astype(np.float64) - theirs).max(axis=(1, 2))
        both, any_ = ((one.masks > 0.5) & (theirs > 0.5)), ((one.masks > 0.5) | (theirs > 0.5))
        iou = np.where(any_.any(axis=(1, 2)), both.sum(axis=(1, 2)) / np.maximum(any_.sum(axis=(1, 2)), 1), 1.0)
    errors = {name: np.where(paired, value, np.inf) for name, value in errors.items()}
    return {**errors, "mask_iou": np.where(paired, iou, 0.0)}


def _agrees(one: DetectionArrays, other: DetectionArrays, tolerance: DetectionTolerance) -> np.ndarray:
    """Return which detections of an image another computation has too."""
    errors = match_errors(one, other)
    return (errors[BOXES] <= tolerance.boxes) & (errors[SCORES] <= tolerance.scores)


def _difference(
    name: str, errors: Errors, case: ParityCase, tolerance: DetectionTolerance, names: Sequence[str]
) -> Difference:
    values = errors.joined(name)
    agreeing = values <= {BOXES: tolerance.boxes, SCORES: tolerance.scores, MASKS: tolerance.masks}.get(name, 0.0)
    if name == MASKS:
        agreeing &= errors.joined("mask_iou") >= tolerance.mask_iou
    finite = values[np.isfinite(values)]
    allowed = (1 - tolerance.agreement) * len(values)
    missing = np.reshape(errors.missing, (len(names), 2)).sum(axis=1)
    return Difference(
        output=name,
        **asdict(case),
        max_abs=float(finite.max()) if len(finite) and name != LABELS else None,
        mean_abs=float(finite.mean()) if len(finite) and name != LABELS else None,
        agreement=float(agreeing.mean()) if len(values) else None,
        detections=len(values),
        image=names[int(missing.argmax())],
        passed=bool((~agreeing).sum() <= (ceil(allowed) if len(values) >= FEW else allowed)),
    )


def _problem(expected: DetectionArrays, actual: DetectionArrays, outputs: Sequence[str]) -> str:
    """Return why detections can't be compared; "" if they can."""
    for name in outputs:
        ours, theirs = getattr(expected, name), getattr(actual, name)
        if theirs is None or ours.shape != theirs.shape:
            given = "none" if theirs is None else " x ".join(map(str, theirs.shape))
            return f"shape {given} for {' x '.join(map(str, ours.shape))} of {name}"
    return NOT_FINITE if not all(np.isfinite(one).all() for one in _floats(expected, actual)) else ""


def _floats(*detections: DetectionArrays) -> Iterator[np.ndarray]:
    for one in detections:
        yield from (array for array in one if array is not None and array.dtype.kind == "f")


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (N, 4) with boxes (M, 4): (N, M)."""
    a, b = one[:, None].astype(np.float64), other[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    area = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    iou: np.ndarray = shared / np.maximum(area, 1e-12)
    return iou
