"""Means over images, and how far they may be from what more images would show."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gtsa_kit.evaluation.support.intervals import Z95


def mean_with_ci(key: str, values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Entries of a row: the mean, and as `<key>_low` and `<key>_high` its 95% interval over images (normal).

    NaN stands for an image that shows nothing; of fewer than two others there is no interval, of none no mean.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return {key: None, f"{key}_low": None, f"{key}_high": None}
    mean = float(known.mean())
    if len(known) == 1:
        return {key: mean, f"{key}_low": None, f"{key}_high": None}
    half = Z95 * float(known.std(ddof=1)) / math.sqrt(len(known))
    return {key: mean, f"{key}_low": mean - half, f"{key}_high": mean + half}
