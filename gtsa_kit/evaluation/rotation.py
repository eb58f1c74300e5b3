"""How plainly an embedding tells the turn of an image, and whether features have collapsed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtsa_kit.data.augment import crop_and_rotate
from gtsa_kit.data.multicrop import derive_seed
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.scenes import Scene, Scenes, common_size, encode
from gtsa_kit.evaluation.support.intervals import wilson
from gtsa_kit.evaluation.support.lazy_imports import sklearn
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.methods.collapse_metrics import MAX_TOKENS, effective_rank, feature_std
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {
    "accuracy": "turns right %",
    "accuracy_low": "95% from",
    "accuracy_high": "to",
    "embedding_rank": "rank, pooled",
    "token_rank": "rank, tokens",
    "token_std": "std, tokens",
}
_SPLIT = 8
"""Sets the split's random numbers apart from those of views."""


@dataclass(frozen=True)
class Settings:
    """How it is probed."""

    held_out: float = 0.3
    """Share of the images that the probe is judged on."""
    strength: float = 0.1
    """scikit-learn's C, on standardized embeddings."""
    size: int | None = None
    """Side of the views; None: the models' own."""

    def __post_init__(self) -> None:
        """Refuse what can't be."""
        if not 0 < self.held_out < 1 or self.strength <= 0:
            raise ValueError(f"the share held out is between 0 and 1 and the strength above 0, got {self}")


@dataclass
class _Seen:
    """What a model made of all images."""

    turned: list[np.ndarray]
    """(4, D) embeddings of each image's turns."""
    tokens: list[np.ndarray]
    """(n, D) of some of its tokens, upright."""


def rotation(
    models: Sequence[Model],
    paths: Sequence[Path],
    settings: Settings = Settings(),  # frozen
    seeds: Sequence[int] = (0,),
    tell: ProgressCallback = no_progress,
) -> Report:
    """Accuracy of a linear probe (logistic regression) that names the quarter turn of whole images; chance is 25%.

    Of each image all four turns are on one side of the split. Wilson's interval counts the turned images as
    independent. Beside it the signs of collapse that training logs, of upright images: effective rank of the
    embeddings and of the tokens (between 1 and the width, and less than the number of images), spread of the
    tokens on the unit sphere (0: all alike).

    Args:
        models: To compare; all see the same images and splits.
        paths: Images, at least two that can be read; broken ones are left out.
        settings: How it is probed.
        seeds: Of the splits.
        tell: Told of the progress.

    Raises:
        ValueError: Fewer than two images, no scikit-learn, or the models share no size.
    """
    sklearn()
    size = common_size(models, settings.size)
    scenes, each = Scenes(paths, 0, tell), -(-MAX_TOKENS // len(paths)) if paths else 1
    seen = {model.name: _Seen([], []) for model in models}
    for scene in scenes:
        views = turned(scene, size)
        for model in models:
            features = encode(model.runner, views)
            tokens = features.feature_map[0].reshape(features.embedding.shape[1], -1).T
            seen[model.name].turned.append(features.embedding)
            seen[model.name].tokens.append(tokens[:: -(-len(tokens) // each)])
    if scenes.count < 2:
        raise ValueError("only one image can be read; a probe needs some to learn from and others to be judged on")
    rows = [
        {"model": name, "seed": seed} | probe(np.stack(found.turned), settings, seed) | _signals(found)
        for seed in seeds
        for name, found in seen.items()
    ]
    about = asdict(settings) | {"size": size, "interval": "95%, Wilson, of one seed"} | scenes.settings()
    return Report("rotation", f"the turn of {scenes.count} images, chance 25%", MEASURES, rows, about)


def turned(scene: Scene, size: int) -> list[torch.Tensor]:
    """The whole image at 0, 1, 2 and 3 quarter turns, (3, size, size) uint8."""
    return [crop_and_rotate(scene.pixels, scene.whole, turn, size) for turn in range(4)]


def probe(vectors: np.ndarray, settings: Settings, seed: int) -> dict[str, Any]:
    """Accuracy, in percent, on the images held out; (N, 4, D) embeddings of each image's turns."""
    learn = sklearn()
    count = len(vectors)
    order = np.random.default_rng(derive_seed(seed, _SPLIT)).permutation(count)
    held = order[: min(count - 1, max(1, round(settings.held_out * count)))]
    train = np.delete(vectors, held, axis=0)
    regression = learn.linear_model.LogisticRegression(C=settings.strength, max_iter=2000)
    classifier = learn.pipeline.make_pipeline(learn.preprocessing.StandardScaler(), regression)
    classifier.fit(train.reshape(-1, vectors.shape[2]), np.tile(np.arange(4), len(train)))
    named = classifier.predict(vectors[held].reshape(-1, vectors.shape[2]))
    right, asked = int((named == np.tile(np.arange(4), len(held))).sum()), len(named)
    low, high = wilson(right, asked)
    accuracy = {"accuracy": 100 * right / asked, "accuracy_low": 100 * low, "accuracy_high": 100 * high}
    return accuracy | {"train": len(train), "held_out": len(held)}


def _signals(found: _Seen) -> dict[str, float]:
    upright = torch.from_numpy(np.stack(found.turned)[:, 0])
    tokens = torch.from_numpy(np.concatenate(found.tokens))
    return {
        "embedding_rank": effective_rank(upright),
        "token_rank": effective_rank(tokens),
        "token_std": feature_std(tokens),
    }
