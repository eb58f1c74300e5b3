"""Embeddings of listed images, once for each model; broken ones are left out, the same for all models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.labeled import ClassificationDataset, SkippedImage
from gtsa_kit.data.sources import Entry, FileSource, display_name
from gtsa_kit.embedding.engine import LocalEngine, Plan
from gtsa_kit.embedding.job import batch_for
from gtsa_kit.embedding.preprocess import Decoder
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.embedding.rows import Failure, ShardRule
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
    plan = Plan(batch_for(runner), available_cores(), ShardRule(2**31), (), "float32")
    decoder = Decoder(runner.preprocessing, ResizePolicy("fixed", sides), runner.manifest.inputs[0].dtype == "uint8")
    entries = (Entry(str(path), str(path), "") for path in paths)
    vectors, kept, skipped = [], [], []
    engine = LocalEngine(FileSource(Path(), ()), runner, decoder, plan)
    for done, row in enumerate(engine(enumerate(entries)), start=1):
        if isinstance(row, Failure):
            skipped.append(SkippedImage(display_name(row.name), row.reason))
        else:
            vectors.append(row.embedding)
            kept.append(row.place)
        tell(what, done, len(paths))
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
