"""How far a measure may be from what more photographs would show: 95% confidence intervals."""

import math

Z95 = 1.959963984540054
"""Of the normal distribution: 2.5% lie above."""


def wilson(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share, which holds near 0 and 1 too (Wilson 1927)."""
    share, shrink = successes / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
