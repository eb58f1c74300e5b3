"""Rotation accuracy of a linear probe, and collapse metrics of the features."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtsa_kit.data.augment import crop_and_rotate
from gtsa_kit.data.samples import derive_seed
from gtsa_kit.evaluation.eval_images import EvalImage, EvalImages, common_size, encode
from gtsa_kit.evaluation.models import Model, embedding_settings
from gtsa_kit.evaluation.support.lazy_imports import import_sklearn
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.statistics import wilson_interval
from gtsa_kit.methods.collapse_metrics import MAX_TOKENS, effective_rank, feature_std
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {
    "accuracy": "rotation accuracy %",
    "accuracy_low": "95% from",
    "accuracy_high": "to",
    "embedding_rank": "rank, pooled",
    "token_rank": "rank, tokens",
    "token_std": "std, tokens",
}
"""Heading of each column of the report's table, by key."""
_SPLIT_STREAM = 8
"""Stream number that separates the random numbers of the split from those of views."""


@dataclass(frozen=True)
class RotationOptions:
    """Options of the rotation probe."""

    held_out: float = 0.3
    """Fraction of the images on which the accuracy is measured."""
    c: float = 0.1
    """Inverse regularization strength (scikit-learn's C), on standardized embeddings."""
    size: int | None = None
    """Side of the views, in pixels; None means the models' own size."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for values out of range."""
        if not 0 < self.held_out < 1 or self.c <= 0:
            raise ValueError(f"held_out must be between 0 and 1 and c above 0, got {self}")


@dataclass
class _ImageFeatures:
    """Features that one model computes of all images."""

    embeddings: list[np.ndarray] = field(default_factory=list)
    """Embeddings of each image by rotation, (4, D)."""
    tokens: list[np.ndarray] = field(default_factory=list)
    """Subsampled tokens of each upright image, (n, D)."""


def rotation(
    models: Sequence[Model],
    paths: Sequence[Path],
    options: RotationOptions = RotationOptions(),  # frozen
    seeds: Sequence[int] = (0,),
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Measure the accuracy of a linear probe (logistic regression) that predicts the rotation of whole images.

    The rotations are 0, 90, 180 and 270 degrees; chance is 25%. All four rotations of an image are on one side of the
    split. Wilson's interval treats the rotated images as independent. The report adds the collapse metrics that
    training logs, for upright images: the effective ranks of embeddings and of tokens (at least 1, at most the number
    of dimensions, and below the number of samples), and the standard deviation of the normalized tokens (0 if all are
    equal).

    Args:
        models: Models to compare; all get the same images and splits.
        paths: Images, at least two of them readable; unreadable ones are skipped.
        options: Options of the probe.
        seeds: Seeds of the splits.
        on_progress: Progress callback.

    Raises:
        ValueError: Fewer than two images can be read, scikit-learn is missing, or the models share no size.
    """
    import_sklearn()
    size = common_size(models, options.size)
    images = EvalImages(paths, 0, on_progress, models[0].runner.preprocessing)
    tokens_each = -(-MAX_TOKENS // len(paths)) if paths else 1
    features = {model.name: _ImageFeatures() for model in models}
    for image in images:
        views = rotated_views(image, size)
        for model in models:
            encoded = encode(model.runner, views)
            tokens = encoded.feature_map[0].reshape(encoded.embedding.shape[1], -1).T
            features[model.name].embeddings.append(encoded.embedding)
            features[model.name].tokens.append(tokens[:: -(-len(tokens) // tokens_each)])
    if images.count < 2:
        raise ValueError("only one image can be read; the probe needs images to fit on and others to measure on")
    rows = [
        {"model": name, "seed": seed}
        | probe_rotation(np.stack(model_features.embeddings), options, seed)
        | _collapse_metrics(model_features)
        for seed in seeds
        for name, model_features in features.items()
    ]
    settings = asdict(options) | {"size": size, "interval": "95%, Wilson, of one seed"} | images.report_settings()
    settings |= embedding_settings(models)
    title = f"rotation of {images.count} images"
    return Report("rotation", title, MEASURES, rows, settings, chance={"accuracy": 25.0})


def rotated_views(image: EvalImage, size: int) -> list[torch.Tensor]:
    """Return the whole image rotated by 0, 90, 180 and 270 degrees, (3, size, size) uint8 each."""
    return [crop_and_rotate(image.pixels, image.full_box, k, size) for k in range(4)]


def probe_rotation(embeddings: np.ndarray, options: RotationOptions, seed: int) -> dict[str, Any]:
    """Fit the rotation probe and measure its accuracy, in percent, on the held-out images.

    Args:
        embeddings: (N, 4, D) embeddings of each image, by rotation.
        options: Options of the probe.
        seed: Seed of the split.
    """
    sklearn = import_sklearn()
    count = len(embeddings)
    order = np.random.default_rng(derive_seed(seed, _SPLIT_STREAM)).permutation(count)
    held = order[: min(count - 1, max(1, round(options.held_out * count)))]
    train = np.delete(embeddings, held, axis=0)
    regression = sklearn.linear_model.LogisticRegression(C=options.c, max_iter=2000)
    classifier = sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), regression)
    classifier.fit(train.reshape(-1, embeddings.shape[2]), np.tile(np.arange(4), len(train)))
    predicted = classifier.predict(embeddings[held].reshape(-1, embeddings.shape[2]))
    correct, total = int((predicted == np.tile(np.arange(4), len(held))).sum()), len(predicted)
    low, high = wilson_interval(correct, total)
    accuracy = {"accuracy": 100 * correct / total, "accuracy_low": 100 * low, "accuracy_high": 100 * high}
    return accuracy | {"train": len(train), "held_out": len(held)}


def _collapse_metrics(features: _ImageFeatures) -> dict[str, float]:
    upright = torch.from_numpy(np.stack(features.embeddings)[:, 0])
    tokens = torch.from_numpy(np.concatenate(features.tokens))
    return {
        "embedding_rank": effective_rank(upright),
        "token_rank": effective_rank(tokens),
        "token_std": feature_std(tokens),
    }
