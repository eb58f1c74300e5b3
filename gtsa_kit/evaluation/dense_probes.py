"""Two ways to read classes out of frozen patch tokens: a linear layer, and the nearest labeled patches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gtsa_kit.evaluation.dense_tokens import Place, Tokens
from gtsa_kit.evaluation.support.knn import KNNClassifier

Scorer = Callable[[np.ndarray], Tensor]
"""(n, D) tokens to (n, C) scores, which are upsampled and whose largest wins."""


@dataclass(frozen=True)
class LinearRecipe:
    """How the linear layer is trained."""

    epochs: int = 20
    least_steps: int = 400
    """More epochs where images are few."""
    tokens: int = 4096
    """A step, about: whole images or tiles."""
    lr: float = 1e-2
    """Of AdamW, falling to 0 by a cosine."""
    weight_decay: float = 1e-4


@dataclass(frozen=True)
class NeighborRecipe:
    """How patches vote, after Hummingbird (arXiv 2306.01667)."""

    k: int = 30
    temperature: float = 0.02
    most: int = 50_000
    """Patches to look among, drawn from all that show a class."""


def fit_linear(tokens: Tokens, train: Sequence[Place], seed: int, recipe: LinearRecipe) -> Scorer:
    """A 1x1 convolution on standardized tokens.

    The loss is the mean cross-entropy of the pixels that are not void, under the scores of the cell that each lies in:
    which is that of each cell with the shares of classes among its pixels. So nothing of the mask's size is computed.
    """
    mean, deviation = _moments(tokens, train)
    dim, classes = tokens.features.shape[1], tokens.shares.shape[1]
    draw = torch.Generator().manual_seed(seed)
    weight = (torch.randn(classes, dim, generator=draw) * 0.01).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=recipe.lr, weight_decay=recipe.weight_decay)
    cells = [place.cells for place in train]
    step = max(1, round(recipe.tokens * len(cells) / sum(own.stop - own.start for own in cells)))
    a_round = math.ceil(len(cells) / step)
    rounds = max(recipe.epochs, math.ceil(recipe.least_steps / a_round))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds * a_round)
    for _ in range(rounds):
        order = torch.randperm(len(cells), generator=draw).tolist()
        for first in range(0, len(order), step):
            chosen = [cells[i] for i in order[first : first + step]]
            features = torch.from_numpy(np.concatenate([tokens.features[own] for own in chosen]))
            shares = torch.from_numpy(np.concatenate([tokens.shares[own] for own in chosen]))
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


def fit_neighbors(tokens: Tokens, train: Sequence[Place], seed: int, recipe: NeighborRecipe) -> Scorer:
    """Patches labeled by the shares of classes among their pixels; each query's votes are shares as well."""
    shown = np.concatenate([np.arange(own.start, own.stop)[tokens.shares[own].any(1)] for own in _slices(train)])
    if len(shown) > recipe.most:
        shown = np.sort(np.random.default_rng(seed).choice(shown, recipe.most, replace=False))
    labels = tokens.shares[shown]
    bank = KNNClassifier(tokens.features[shown], labels / labels.sum(1, keepdims=True))

    def score(features: np.ndarray) -> Tensor:
        votes = bank.vote(features, (recipe.k,), recipe.temperature)[0]
        return torch.from_numpy((votes / votes.sum(1, keepdims=True)).astype(np.float32))

    return score


def predict(tokens: Tokens, places: Sequence[Place], size: tuple[int, int], score: Scorer) -> np.ndarray:
    """(H, W) int64 classes of an image: scores upsampled bilinearly to each place's box, then the largest.

    Args:
        tokens: Of all.
        places: Of the image; where tiles overlap, the later one counts.
        size: (H, W) of the image.
        score: A probe.
    """
    found = np.zeros(size, np.int64)
    scores = score(np.concatenate([tokens.features[place.cells] for place in places]))
    parts = torch.split(scores, [place.grid[0] * place.grid[1] for place in places])
    for place, part in zip(places, parts, strict=True):
        top, left, bottom, right = place.box
        cells = part.T.reshape(1, -1, *place.grid)
        pixels = F.interpolate(cells, (bottom - top, right - left), mode="bilinear", align_corners=False)
        found[top:bottom, left:right] = pixels[0].argmax(0).numpy()
    return found


def _slices(places: Sequence[Place]) -> list[slice]:
    return [place.cells for place in places]


def _moments(tokens: Tokens, train: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each dimension over the training tokens."""
    count, total, squares = 0, np.zeros(tokens.features.shape[1]), np.zeros(tokens.features.shape[1])
    for own in _slices(train):
        features = tokens.features[own].astype(np.float64)
        count, total = count + len(features), total + features.sum(0)
        squares += (features**2).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-10))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(deviation.astype(np.float32))
