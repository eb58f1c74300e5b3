"""Probes of frozen patch tokens: a linear layer, and k-nearest neighbors among labeled patches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gtsa_kit.evaluation.dense_tokens import PatchTokens, TokenSpan
from gtsa_kit.knn import KNNClassifier

Scorer = Callable[[np.ndarray], Tensor]
"""Function from (n, D) tokens to (n, C) class scores."""


@dataclass(frozen=True)
class LinearProbeOptions:
    """Training options of the linear layer."""

    epochs: int = 20
    """Number of epochs; more are trained if `min_steps` needs them."""
    min_steps: int = 400
    """Smallest number of optimizer steps."""
    tokens_per_step: int = 4096
    """Approximate number of tokens in a batch; a batch consists of whole images or tiles."""
    lr: float = 1e-2
    """Initial learning rate of AdamW, with cosine decay to 0."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""


@dataclass(frozen=True)
class KNNProbeOptions:
    """Options of the k-NN probe of patches, after Hummingbird (arXiv 2306.01667)."""

    k: int = 30
    """Number of neighbors."""
    temperature: float = 0.02
    """Temperature of the weights exp(cosine / temperature)."""
    max_patches: int = 50_000
    """Largest number of training patches; more are subsampled."""


def fit_linear(tokens: PatchTokens, train: Sequence[TokenSpan], seed: int, options: LinearProbeOptions) -> Scorer:
    """Fit a linear layer (a 1x1 convolution) on standardized tokens.

    The loss is the mean cross-entropy of the pixels that are not void, where each pixel has the scores of its patch.
    It is computed from the class shares of each patch. This is equivalent and needs no array of the mask's size.

    Args:
        tokens: Tokens and class shares of the dataset.
        train: Spans of the training images.
        seed: Seed of the initial weights and of the order of the images.
        options: Training options.
    """
    mean, deviation = _mean_and_std(tokens, train)
    dim, classes = tokens.features.shape[1], tokens.class_shares.shape[1]
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(classes, dim, generator=generator) * 0.01).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=options.lr, weight_decay=options.weight_decay)
    rows = [span.rows for span in train]
    batch_size = max(1, round(options.tokens_per_step * len(rows) / sum(part.stop - part.start for part in rows)))
    steps_per_epoch = math.ceil(len(rows) / batch_size)
    epochs = max(options.epochs, math.ceil(options.min_steps / steps_per_epoch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    for _ in range(epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for first in range(0, len(order), batch_size):
            batch = [rows[i] for i in order[first : first + batch_size]]
            features = torch.from_numpy(np.concatenate([tokens.features[part] for part in batch]))
            shares = torch.from_numpy(np.concatenate([tokens.class_shares[part] for part in batch]))
            logits = F.linear((features - mean) / deviation, weight, bias)
            loss = -(shares * logits.log_softmax(1)).sum() / shares.sum().clamp(min=1e-6)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()

    def score(features: np.ndarray) -> Tensor:
        with torch.no_grad():
            return F.linear((torch.from_numpy(features) - mean) / deviation, weight, bias)

    return score


def fit_knn(tokens: PatchTokens, train: Sequence[TokenSpan], seed: int, options: KNNProbeOptions) -> Scorer:
    """Build a k-NN classifier of patches, labeled by the class shares of their pixels; its scores sum to 1.

    Args:
        tokens: Tokens and class shares of the dataset.
        train: Spans of the training images; patches without labeled pixels are ignored.
        seed: Seed of the subsampling of patches.
        options: Options of the classifier.
    """
    labeled = np.concatenate(
        [np.arange(span.rows.start, span.rows.stop)[tokens.class_shares[span.rows].any(1)] for span in train]
    )
    if len(labeled) > options.max_patches:
        labeled = np.sort(np.random.default_rng(seed).choice(labeled, options.max_patches, replace=False))
    labels = tokens.class_shares[labeled]
    classifier = KNNClassifier(tokens.features[labeled], labels / labels.sum(1, keepdims=True))

    def score(features: np.ndarray) -> Tensor:
        scores = classifier.scores(features, (options.k,), options.temperature)[0]
        return torch.from_numpy((scores / scores.sum(1, keepdims=True)).astype(np.float32))

    return score


def predict(tokens: PatchTokens, spans: Sequence[TokenSpan], size: tuple[int, int], score: Scorer) -> np.ndarray:
    """Predict the (H, W) int64 classes of an image: bilinearly upsampled scores, then argmax.

    Args:
        tokens: Tokens of the dataset.
        spans: Spans of the image; where tiles overlap, the last one is used.
        size: (H, W) of the image.
        score: Fitted probe.
    """
    classes = np.zeros(size, np.int64)
    scores = score(np.concatenate([tokens.features[span.rows] for span in spans]))
    parts = torch.split(scores, [span.grid[0] * span.grid[1] for span in spans])
    for span, part in zip(spans, parts, strict=True):
        top, left, bottom, right = span.box
        grid = part.T.reshape(1, -1, *span.grid)
        pixels = F.interpolate(grid, (bottom - top, right - left), mode="bilinear", align_corners=False)
        classes[top:bottom, left:right] = pixels[0].argmax(0).numpy()
    return classes


def _mean_and_std(tokens: PatchTokens, train: Sequence[TokenSpan]) -> tuple[Tensor, Tensor]:
    """Return the (D,) mean and standard deviation of the training tokens."""
    count, total, squares = 0, np.zeros(tokens.features.shape[1]), np.zeros(tokens.features.shape[1])
    for span in train:
        features = tokens.features[span.rows].astype(np.float64)
        count, total = count + len(features), total + features.sum(0)
        squares += (features**2).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-10))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(deviation.astype(np.float32))
