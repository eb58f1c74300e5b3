"""Weights of classes in the loss, by how frequent they are in the training part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

ClassWeights = Literal["none", "inverse", "sqrt", "log"]

_FORMULAS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": np.ones_like,
    "inverse": lambda share: 1 / share,
    "sqrt": lambda share: 1 / np.sqrt(share),
    "log": lambda share: 1 / np.log(1.02 + share),
}


def class_weights(counts: Sequence[int], kind: ClassWeights) -> np.ndarray:
    """Return the weight of each class in the loss, (K,) float32.

    With p the share of a class in `counts`, the weight before scaling is 1 for `none`, 1 / p for `inverse`,
    1 / sqrt(p) for `sqrt`, and 1 / ln(1.02 + p), as in ENet, for `log`, which lies between 1.4 and 50. Weights are then
    scaled so that the mean over all pixels (or images) is 1. A class that is not in `counts` has weight 1.

    Args:
        counts: Pixels or images of each class of the training part.
        kind: Formula.

    Raises:
        ValueError: There is no such formula, or nothing is counted.
    """
    if kind not in _FORMULAS:
        raise ValueError(f"unknown class weights {kind!r}; choose {', '.join(_FORMULAS)}")
    total = np.asarray(counts, np.float64)
    if not total.sum() > 0:
        raise ValueError("no class has a pixel or an image in train; check the labels")
    share = total / total.sum()
    there = share > 0
    weights = np.ones(len(share))
    weights[there] = _FORMULAS[kind](share[there])
    weights[there] /= (share * weights)[there].sum()
    return weights.astype(np.float32)
