"""Means and 95% confidence intervals."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Z95 = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""


def mean_with_ci(key: str, values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return the mean of values as `key`, and its normal 95% interval as `<key>_low` and `<key>_high`.

    NaN values are ignored. With fewer than two remaining values the interval is None, with none the mean too.
    """
    valid = np.asarray(values, np.float64)
    valid = valid[~np.isnan(valid)]
    if not len(valid):
        return {key: None, f"{key}_low": None, f"{key}_high": None}
    mean = float(valid.mean())
    if len(valid) == 1:
        return {key: mean, f"{key}_low": None, f"{key}_high": None}
    half = Z95 * float(valid.std(ddof=1)) / math.sqrt(len(valid))
    return {key: mean, f"{key}_low": mean - half, f"{key}_high": mean + half}


def wilson_interval(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927); it also holds near 0 and 1."""
    share, shrink = successes / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(
    measure: Callable[[np.ndarray], float], items: np.ndarray, seed: int = 0, resamples: int = 1000
) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile bootstrap interval (95%) of a measure, or (None, None) for fewer than two items.

    Args:
        measure: Function of the sum of the resampled items.
        items: (N, ...) quantities that add up, such as the counts of each image.
        seed: Seed of the resampling.
        resamples: Number of resampled sets.
    """
    if len(items) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    flat = items.reshape(len(items), -1).astype(np.float64)
    values = []
    for _ in range(resamples):
        counts = np.bincount(rng.integers(0, len(items), len(items)), minlength=len(items))
        values.append(measure((counts @ flat).reshape(items.shape[1:])))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
