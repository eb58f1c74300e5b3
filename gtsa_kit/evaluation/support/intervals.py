"""How far a measure may be from what more images would show: 95% confidence intervals."""

import math
from collections.abc import Callable

import numpy as np

Z95 = 1.959963984540054
"""Of the normal distribution: 2.5% lie above."""


def wilson(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share, which holds near 0 and 1 too (Wilson 1927)."""
    share, shrink = successes / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    measure: Callable[[np.ndarray], float], items: np.ndarray, seed: int = 0, draws: int = 1000
) -> tuple[float, float] | tuple[None, None]:
    """The middle 95% of a measure over sets of items drawn with replacement; None of fewer than two items.

    Args:
        measure: Of the sum of the drawn items.
        items: (N, ...), anything that adds up, such as counts of each image.
        seed: Of the draws.
        draws: How many.
    """
    if len(items) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    flat = items.reshape(len(items), -1).astype(np.float64)
    found = []
    for _ in range(draws):
        often = np.bincount(rng.integers(0, len(items), len(items)), minlength=len(items))
        found.append(measure((often @ flat).reshape(items.shape[1:])))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
