"""Weighted k-nearest-neighbor classification by cosine, which the probes of images and of patches share."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MAX_BLOCK_ELEMENTS = 2**25
"""Maximum number of cosines, or of neighbors' label values, in memory at a time: 128 MB of cosines."""


class KNNClassifier:
    """Weighted k-NN classifier: scores queries by the labels of their nearest training features."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Store (N, D) features, normalized to length 1, and their (N, C) class shares."""
        self._features = _l2_normalize(features)
        self._labels = torch.from_numpy(np.ascontiguousarray(labels))

    def scores(self, queries: np.ndarray, ks: tuple[int, ...], temperature: float) -> np.ndarray:
        """Return class scores: the neighbors' labels, each weighted by exp(cosine / temperature) and summed.

        Args:
            queries: (Q, D) features.
            ks: Numbers of neighbors; a number above N means N.
            temperature: Temperature of the weights: 0.07 in DINO, 0.02 in Hummingbird.

        Returns:
            (len(ks), Q, C) float64. Each query has its own scale: the weight of its nearest neighbor is 1.
        """
        scores = torch.zeros(len(ks), len(queries), self._labels.shape[1], dtype=torch.float64)
        max_k = min(max(ks), len(self._features))
        step = max(1, MAX_BLOCK_ELEMENTS // max(len(self._features), max_k * self._labels.shape[1]))
        for first in range(0, len(queries), step):
            cosines = _l2_normalize(queries[first : first + step]) @ self._features.T
            best = cosines.topk(max_k, dim=1)  # in descending order
            weights = ((best.values - best.values[:, :1]).double() / temperature).exp()
            labels = self._labels[best.indices].double()  # (q, max_k, C)
            for index, k in enumerate(ks):
                scores[index, first : first + step] = torch.einsum("qk,qkc->qc", weights[:, :k], labels[:, :k])
        result: np.ndarray = scores.numpy()
        return result


def _l2_normalize(vectors: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(vectors, np.float32)), dim=1)
