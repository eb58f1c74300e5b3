"""Comparison of logits or of a mask of an artifact with the logits of the reference."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from gtsa_kit.export.comparison import NOT_FINITE
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_report import Difference
from gtsa_kit.export.spec import MASK
from gtsa_kit.export.tolerances import TaskTolerance


def compare_task_output(
    output: str,
    expected: np.ndarray,
    actual: np.ndarray,
    case: ParityCase,
    tolerance: TaskTolerance,
    names: Sequence[str],
) -> Difference:
    """Measure the difference of logits (B, K) or (B, K, H, W), or of a mask (B, H, W).

    Arrays of different shapes and values that are not finite fail without numbers, and `problem` names the reason.

    Args:
        output: The output's name.
        expected: The reference's logits.
        actual: The artifact's logits or mask.
        case: The shape of the input, for the report.
        tolerance: Absolute bounds, see `in_logits`.
        names: Names of the batch's images, for the report.
    """
    shape = (len(expected), *expected.shape[2:]) if output == MASK else expected.shape
    if actual.shape != shape:
        return _without_numbers(output, case, f"shape {_times(actual.shape)} for {_times(shape)}", names[0])
    finite = np.array([np.isfinite(e).all() and np.isfinite(a).all() for e, a in zip(expected, actual, strict=True)])
    if not finite.all():
        return _without_numbers(output, case, NOT_FINITE, names[int(finite.argmin())])
    chosen = actual if output == MASK else actual.argmax(axis=1)
    agreeing = class_agreement(expected, chosen, tolerance.mean_abs).reshape(len(expected), -1).mean(axis=1)
    error = None if output == MASK else np.abs(expected.astype(np.float64) - actual)
    max_abs, mean_abs = (None, None) if error is None else (float(error.max()), float(error.mean()))
    passed = agreeing.mean() >= tolerance.agreement
    if max_abs is not None and mean_abs is not None:
        passed = passed and max_abs <= tolerance.max_abs and mean_abs <= tolerance.mean_abs
    return Difference(
        output=output,
        **asdict(case),
        max_abs=max_abs,
        mean_abs=mean_abs,
        agreement=float(agreeing.mean()),
        image=names[int(agreeing.argmin())],
        passed=bool(passed),
    )


def class_agreement(expected: np.ndarray, chosen: np.ndarray, tie: float) -> np.ndarray:
    """Return whether each chosen class is the best one of the reference, or within `tie` of it.

    Args:
        expected: Logits (B, K, ...).
        chosen: Class numbers (B, ...). A number that is no class agrees with nothing.
        tie: Difference of logits below which classes are tied.
    """
    valid = chosen < expected.shape[1]
    index = np.where(valid, chosen, 0).astype(np.int64)[:, None]
    logits: np.ndarray = np.take_along_axis(expected, index, axis=1)[:, 0]
    agreeing: np.ndarray = valid & (logits >= expected.max(axis=1) - tie)
    return agreeing


def logits_std(logits: np.ndarray) -> float:
    """Return the root mean square of the distance of logits (B, K, ...) from their means over the classes."""
    values = logits.astype(np.float64)
    return float(np.sqrt(np.mean((values - values.mean(axis=1, keepdims=True)) ** 2)))


def in_logits(tolerance: TaskTolerance, std: float) -> TaskTolerance:
    """Return a tolerance whose bounds are differences of logits with this standard deviation."""
    return TaskTolerance(tolerance.max_abs * std, tolerance.mean_abs * std, tolerance.agreement)


def _without_numbers(output: str, case: ParityCase, problem: str, image: str) -> Difference:
    return Difference(output=output, **asdict(case), problem=problem, image=image, passed=False)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
