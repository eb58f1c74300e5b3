"""Comparison of one output of an artifact with that of the reference."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import numpy as np

from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_report import Difference
from gtsa_kit.export.tolerances import Tolerance

NOT_FINITE: Final = "not finite"


def compare_output(
    output: str,
    expected: np.ndarray,
    actual: np.ndarray,
    case: ParityCase,
    tolerance: Tolerance,
    names: Sequence[str] = (),
) -> Difference:
    """Measure the difference of one output: embeddings (B, D), or feature maps (B, D, h, w) compared per token.

    Arrays of different shapes and values that are not finite fail without numbers, and `problem` names the reason.

    Args:
        output: The output's name, for the report.
        expected: The reference's output.
        actual: The artifact's output.
        case: The shape of the input, for the report.
        tolerance: Bounds on the difference.
        names: Names of the batch's images, for the report; by default their indices.
    """
    if expected.shape != actual.shape:
        return _without_numbers(
            output, case, f"shape {_times(actual)} for {_times(expected)}", names[0] if names else ""
        )
    expected_tokens, actual_tokens = _to_tokens(expected), _to_tokens(actual)
    finite = np.isfinite(expected_tokens).all(axis=1) & np.isfinite(actual_tokens).all(axis=1)
    if not finite.all():
        index = int(finite.argmin()) * len(expected) // len(finite)
        return _without_numbers(output, case, NOT_FINITE, names[index] if names else f"image {index}")
    error = np.abs(expected_tokens - actual_tokens)
    cosine = np.sum(_unit(expected_tokens) * _unit(actual_tokens), axis=1)
    neighbors = neighbor_agreement(expected_tokens, actual_tokens)
    worst = int(cosine.argmin()) * len(expected) // len(cosine)
    passed = (
        error.max() <= tolerance.max_abs
        and error.mean() <= tolerance.mean_abs
        and cosine.min() >= tolerance.min_cosine
        and (neighbors is None or neighbors >= tolerance.neighbors)
    )
    return Difference(
        output=output,
        **asdict(case),
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        min_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
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


def _without_numbers(output: str, case: ParityCase, problem: str, image: str) -> Difference:
    return Difference(output=output, **asdict(case), problem=problem, neighbors=None, image=image, passed=False)


def _times(values: np.ndarray) -> str:
    return " x ".join(map(str, values.shape))
