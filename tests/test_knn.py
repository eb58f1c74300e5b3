"""Scores of the k-NN classifier, against a slow loop and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from gtsa_kit.knn import KNNClassifier


def slow_scores(features: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, temperature: float) -> np.ndarray:
    cosines = []
    for row in features.astype(np.float64):
        dot = sum(float(a) * float(b) for a, b in zip(row, query, strict=True))
        cosines.append(dot / math.sqrt(sum(a * a for a in row)) / math.sqrt(sum(float(b) ** 2 for b in query)))
    scores = np.zeros(labels.shape[1])
    for index in sorted(range(len(features)), key=lambda i: -cosines[i])[:k]:
        scores += math.exp(cosines[index] / temperature) * labels[index]
    return scores


@pytest.mark.parametrize("block", [2**25, 100])
def test_scores_against_a_slow_loop(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("gtsa_kit.knn.MAX_BLOCK_ELEMENTS", block)  # all queries at once, and in blocks
    rng = np.random.default_rng(0)
    features, queries = rng.standard_normal((30, 6)).astype(np.float32), rng.standard_normal((11, 6)).astype(np.float32)
    labels = rng.dirichlet(np.ones(4), 30).astype(np.float32)
    ks = (1, 7, 100)
    result = KNNClassifier(features, labels).scores(queries, ks, 0.07)
    for scores, k in zip(result, ks, strict=True):
        for own, query in zip(scores, queries, strict=True):
            slow = slow_scores(features, labels, query, k, 0.07)
            np.testing.assert_allclose(own / own.sum(), slow / slow.sum(), rtol=1e-4, atol=1e-9)


def test_predictions_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    features, queries = rng.standard_normal((200, 8)), rng.standard_normal((80, 8))
    labels = rng.integers(0, 5, 200)
    reference = KNeighborsClassifier(15, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = reference.fit(features, labels).predict(queries)
    result = KNNClassifier(features, np.eye(5, dtype=np.float32)[labels]).scores(queries, (15,), 0.07)[0].argmax(1)
    np.testing.assert_array_equal(result, expected)
