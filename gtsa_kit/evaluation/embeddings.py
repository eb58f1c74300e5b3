"""Embeddings of listed images, once for each model; broken ones are left out, the same for all models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.labeled import ClassificationDataset, SkippedImage
from gtsa_kit.data.sources import Entry, FileSource, display_name
from gtsa_kit.embedding.extract import BatchPlan, extract_features
from gtsa_kit.embedding.model import choose_batch_size
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.evaluation.models import Model
from gtsa_kit.export import Runner
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.encoder import nearest_side
from gtsa_kit.progress import ProgressCallback


@dataclass(frozen=True)
class Embeddings:
    """Of the images that could be read."""

    vectors: np.ndarray
    """(M, D) float32."""
    kept: np.ndarray
    """(M,) places of them in the list."""
    skipped: tuple[SkippedImage, ...]
    size: tuple[int, int]
    """(height, width) of the input."""


@dataclass(frozen=True)
class Embedded:
    """A labeled set as one model sees it."""

    vectors: np.ndarray
    labels: np.ndarray
    validation: np.ndarray | None
    skipped: tuple[SkippedImage, ...]
    size: tuple[int, int]


def embed_paths(
    runner: Runner, paths: Sequence[Path], size: int | None, tell: ProgressCallback, what: str
) -> Embeddings:
    """Embed images at one square size; what the model takes, if it does not take that one."""
    sides = square_size(runner, size)
    plan = BatchPlan(choose_batch_size(runner), available_cores())
    preprocessor = Preprocessor.for_runner(runner, ResizePolicy("fixed", sides))
    entries = (Entry(str(path), str(path), "") for path in paths)
    vectors, kept, skipped = [], [], []
    for index, row in enumerate(extract_features(entries, FileSource(Path(), ()), runner, preprocessor, plan)):
        if isinstance(row, FailedImage):
            skipped.append(SkippedImage(display_name(row.path), row.reason))
        else:
            vectors.append(row.embedding)
            kept.append(index)
        tell(what, index + 1, len(paths))
    if not vectors:
        raise ValueError(f"none of the {len(paths)} images can be read, first {skipped[0].path}: {skipped[0].reason}")
    return Embeddings(np.stack(vectors), np.array(kept), tuple(skipped), sides)


def embed_labeled(model: Model, data: ClassificationDataset, size: int | None, tell: ProgressCallback) -> Embedded:
    """Embed a labeled set; broken images go, with what was known of them."""
    found = embed_paths(model.runner, data.paths, size, tell, f"embedding with {model.name}")
    validation = None if data.validation is None else data.validation[found.kept]
    if validation is not None and (validation.all() or not validation.any()):
        raise ValueError(f"no readable image is left in {'train' if validation.all() else 'val'}")
    return Embedded(found.vectors, data.labels[found.kept], validation, data.skipped + found.skipped, found.size)


Embed = Callable[[Model, ClassificationDataset, int | None, ProgressCallback], Embedded]


def embed_once() -> Embed:
    """`embed_labeled` that remembers what it gave, for several probes of the same models."""
    known: dict[tuple[int, int, int | None], Embedded] = {}

    def embed(model: Model, data: ClassificationDataset, size: int | None, tell: ProgressCallback) -> Embedded:
        key = id(model), id(data), size
        if key not in known:
            known[key] = embed_labeled(model, data, size, tell)
        return known[key]

    return embed


def square_size(runner: Runner, size: int | None) -> tuple[int, int]:
    """(height, width) nearest to a square of this side (None: the model's own) that the model takes."""
    side = nearest_side(size or runner.preprocessing.size)
    return runner.nearest_size(side, side)
