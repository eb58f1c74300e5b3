"""Linear and k-NN probes of patch tokens, against slow loops."""

import math

import numpy as np
from torch import from_numpy

from gtsa_kit.evaluation.dense_probes import KNNProbeOptions, LinearProbeOptions, fit_knn, fit_linear, predict
from gtsa_kit.evaluation.dense_tokens import PatchTokens, TokenSpan


def build_tokens(shares: np.ndarray, features: np.ndarray, images: int) -> PatchTokens:
    """Build the tokens of images of 2 x 2 patches."""
    spans = tuple((TokenSpan(index, (0, 0, 32, 32), (32, 32), (2, 2), 4 * index),) for index in range(images))
    return PatchTokens(spans, features.astype(np.float32), shares.astype(np.float32))


def test_scores_are_upsampled_between_patch_centers() -> None:
    """Two patches on eight pixels have centers at 2 and 6; scores are linear between and constant outside."""
    tokens = PatchTokens((), np.array([[1.0], [0.0]], np.float32), np.zeros((2, 2), np.float32))
    span = TokenSpan(0, (0, 0, 1, 8), (16, 32), (1, 2), 0)
    for threshold, last in ((0.9, 1), (0.6, 3), (0.4, 4), (0.1, 5)):
        result = predict(tokens, [span], (1, 8), lambda x, t=threshold: from_numpy(np.c_[x, np.full_like(x, t)]))
        height = [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]
        assert result[0].tolist() == [int(value < threshold) for value in height], last


def test_knn_scores_of_patches_against_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    shares, features = rng.dirichlet(np.ones(3), 40), rng.standard_normal((40, 5))
    shares[7] = 0  # only void: never a neighbor
    shares[8] *= 0.25  # three quarters void: the labeled part has full weight
    tokens = build_tokens(shares, features, 10)
    spans = tokens.spans_of(np.ones(10, bool))
    query = rng.standard_normal((1, 5)).astype(np.float32)
    scores = fit_knn(tokens, spans, 0, KNNProbeOptions(k=6, temperature=0.1))(query)[0].numpy()
    result = []
    for share, feature in zip(tokens.class_shares, tokens.features, strict=True):
        if share.sum() > 0:
            cosine = float(feature @ query[0]) / float(np.linalg.norm(feature) * np.linalg.norm(query))
            result.append((cosine, share / share.sum()))
    result = sorted(result, key=lambda item: -item[0])[:6]
    expected = sum(math.exp(cosine / 0.1) * share for cosine, share in result)
    np.testing.assert_allclose(scores, expected / expected.sum(), rtol=1e-4)


def test_training_patches_are_subsampled_by_seed() -> None:
    rng = np.random.default_rng(0)
    tokens = build_tokens(np.eye(2)[rng.integers(0, 2, 40)], rng.standard_normal((40, 5)), 10)
    query, spans = rng.standard_normal((9, 5)).astype(np.float32), tokens.spans_of(np.ones(10, bool))
    options = KNNProbeOptions(k=3, max_patches=12)
    first, same, other = (fit_knn(tokens, spans, seed, options)(query) for seed in (0, 0, 1))
    assert (first == same).all()
    assert (first != other).any()


def test_the_linear_probe_separates_linear_classes_and_is_deterministic() -> None:
    """Dimensions of very different scale do not matter."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((80, 6)) * [1, 100, 0.01, 1, 1, 1] + 5
    classes = 2 * (features[:, 0] > 5).astype(int) + (features[:, 2] > 5)
    shares = np.eye(4)[classes]
    tokens = build_tokens(shares, features, 20)
    spans, options = tokens.spans_of(np.ones(20, bool)), LinearProbeOptions(lr=0.1)
    first, same, other = (fit_linear(tokens, spans, seed, options)(tokens.features) for seed in (0, 0, 1))
    assert (first.argmax(1).numpy() == classes).mean() > 0.95
    assert (first == same).all()
    assert (first != other).any()


def test_the_loss_is_the_cross_entropy_of_pixels() -> None:
    """Patches with seven pixels of one class, one of the other and void ones give these shares as probabilities."""
    shares = np.tile([[7 / 16, 1 / 16]], (4, 1))
    tokens = build_tokens(shares, np.ones((4, 2)), 1)
    score = fit_linear(tokens, tokens.spans_of(np.ones(1, bool)), 0, LinearProbeOptions(lr=0.1, weight_decay=0))
    np.testing.assert_allclose(score(tokens.features).softmax(1)[0], [7 / 8, 1 / 8], atol=3e-3)
