"""Comparison of one output of an artifact with that of the reference."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import numpy as np

from gtsa_kit.export.manifest import Difference
from gtsa_kit.export.spec import ParityCase, Tolerance

NOT_FINITE: Final = 1e30
"""Number that stands for a NaN or an infinity in a report; JSON has neither."""


def compare_output(
    output: str,
    expected: np.ndarray,
    actual: np.ndarray,
    case: ParityCase,
    tolerance: Tolerance,
    names: Sequence[str] = (),
) -> Difference:
    """Measure the difference of one output: embeddings (B, D), or feature maps (B, D, h, w) compared per token.

    Arrays of different shapes fail, and so does a NaN.

    Args:
        output: The output's name, for the report.
        expected: The reference's output.
        actual: The artifact's output.
        case: The shape of the input, for the report.
        tolerance: Bounds on the difference.
        names: Names of the batch's images, for the report; by default their indices.
    """
    if expected.shape != actual.shape:
        return _shape_mismatch(output, case, names[0] if names else "")
    expected_tokens, actual_tokens = _to_tokens(expected), _to_tokens(actual)
    error = np.abs(expected_tokens - actual_tokens)
    cosine = np.sum(_unit(expected_tokens) * _unit(actual_tokens), axis=1)
    neighbors = neighbor_agreement(expected_tokens, actual_tokens)
    worst = int(np.nan_to_num(cosine, nan=-NOT_FINITE).argmin()) * len(expected) // len(cosine)
    # Comparisons with NaN are false, so any NaN fails.
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


def neighbor_agreement(expected: np.ndarray, actual: np.ndarray, tie: float = 1e-5) -> float | None:
    """Return the share of rows (N, D) with the same cosine nearest neighbor among the other rows in both arrays.

    Args:
        expected: The reference's rows.
        actual: The artifact's rows.
        tie: A neighbor whose cosine in `expected` is within `tie` of the best counts as the same.

    Returns:
        The share, 0 to 1; None for fewer than 3 rows.
    """
    if len(expected) < 3:
        return None
    expected_cosine, actual_cosine = _unit(expected) @ _unit(expected).T, _unit(actual) @ _unit(actual).T
    np.fill_diagonal(expected_cosine, -2)
    np.fill_diagonal(actual_cosine, -2)
    chosen = expected_cosine[np.arange(len(expected)), actual_cosine.argmax(axis=1)]
    return float(np.mean(chosen >= expected_cosine.max(axis=1) - tie))


def _to_tokens(values: np.ndarray) -> np.ndarray:
    """Reshape (B, D, h, w) to (B*h*w, D) and leave (B, D) as it is; both in float64."""
    rows = values if values.ndim == 2 else np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return rows.astype(np.float64)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(norms, 1e-12)
    return unit


def _finite(value: float) -> float:
    return float(np.nan_to_num(value, nan=-NOT_FINITE, posinf=NOT_FINITE, neginf=-NOT_FINITE))


def _shape_mismatch(output: str, case: ParityCase, image: str) -> Difference:
    return Difference(
        output=output,
        **asdict(case),
        max_abs=NOT_FINITE,
        mean_abs=NOT_FINITE,
        min_cosine=-1,
        mean_cosine=-1,
        neighbors=0,
        image=image,
        passed=False,
    )
