"""Votes of the nearest neighbors, weighted by their cosine: what the k-NN probes of images and of patches share."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 2**25
"""Cosines in memory at a time, 128 MB, or labels of neighbors."""


class KNNClassifier:
    """Features that neighbors are looked for among, and what is known of each."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Keep (N, D) features, scaled to length 1, and their (N, C) shares of classes."""
        self._unit = _unit(features)
        self._labels = torch.from_numpy(np.ascontiguousarray(labels))

    def vote(self, queries: np.ndarray, ks: tuple[int, ...], temperature: float) -> np.ndarray:
        """Sums of the neighbors' labels, each times exp(cosine / temperature).

        Args:
            queries: (Q, D).
            ks: Numbers of neighbors; more than N are N.
            temperature: 0.07 in DINO, 0.02 in Hummingbird; the lower, the more the nearest ones count.

        Returns:
            (len(ks), Q, C) float64, each query's up to a factor of its own: the first neighbor's weight is 1.
        """
        votes = torch.zeros(len(ks), len(queries), self._labels.shape[1], dtype=torch.float64)
        most = min(max(ks), len(self._unit))
        step = max(1, BLOCK // max(len(self._unit), most * self._labels.shape[1]))
        for first in range(0, len(queries), step):
            cosines = _unit(queries[first : first + step]) @ self._unit.T
            best = cosines.topk(most, dim=1)  # falling
            weights = ((best.values - best.values[:, :1]).double() / temperature).exp()
            labels = self._labels[best.indices].double()  # (q, most, C)
            for place, k in enumerate(ks):
                votes[place, first : first + step] = torch.einsum("qk,qkc->qc", weights[:, :k], labels[:, :k])
        found: np.ndarray = votes.numpy()
        return found


def _unit(vectors: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(vectors, np.float32)), dim=1)
