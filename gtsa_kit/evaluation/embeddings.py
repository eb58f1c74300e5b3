"""Embeddings of listed images and of classification datasets; unreadable images are skipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.entries import Entry, display_name
from gtsa_kit.data.labeled import ClassificationDataset
from gtsa_kit.data.skipped import SkippedImage
from gtsa_kit.data.sources import FileSource
from gtsa_kit.embedding.extract import BatchPlan, extract_features
from gtsa_kit.embedding.model import choose_batch_size
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.evaluation.models import Model
from gtsa_kit.export import Runner
from gtsa_kit.hardware import available_cores
from gtsa_kit.progress import ProgressCallback


@dataclass(frozen=True)
class ImageEmbeddings:
    """Embeddings of the readable images of a list."""

    vectors: np.ndarray
    """Embeddings, (M, D) float32."""
    indices: np.ndarray
    """Indices of the readable images in the list, (M,)."""
    skipped: tuple[SkippedImage, ...]
    input_size: tuple[int, int]
    """Size of the input (height, width), in pixels."""


@dataclass(frozen=True)
class LabeledEmbeddings:
    """Embeddings of a classification dataset from one model."""

    vectors: np.ndarray
    """Embeddings, (M, D) float32."""
    labels: np.ndarray
    """Class numbers (indices of `classes`), (M,) int64."""
    classes: tuple[str, ...]
    """Names of the classes that have readable images to fit on."""
    validation: np.ndarray | None
    """Mask of the validation images, (M,) bool; None if the dataset has no split."""
    skipped: tuple[SkippedImage, ...]
    input_size: tuple[int, int]
    """Size of the input (height, width), in pixels."""


DatasetEmbedder = Callable[[Model, ClassificationDataset, int | None, ProgressCallback], LabeledEmbeddings]
"""Function with the signature of `embed_dataset`."""


def embed_images(
    runner: Runner, paths: Sequence[Path], size: int | None, on_progress: ProgressCallback, task: str
) -> ImageEmbeddings:
    """Embed images at one square size.

    Args:
        runner: Model.
        paths: Images; unreadable ones are skipped.
        size: Side of the input, in pixels; the nearest size that the model accepts is used. None means the model's own.
        on_progress: Progress callback.
        task: Name of the task in progress messages.

    Raises:
        ValueError: No image can be read.
    """
    input_size = square_input_size(runner, size)
    plan = BatchPlan(choose_batch_size(runner), available_cores())
    preprocessor = Preprocessor.for_runner(runner, ResizePolicy("fixed", input_size, patch=runner.manifest.patch))
    entries = (Entry(str(path), str(path)) for path in paths)
    vectors, indices, skipped = [], [], []
    for index, row in enumerate(extract_features(entries, FileSource(Path()), runner, preprocessor, plan)):
        if isinstance(row, FailedImage):
            skipped.append(SkippedImage(display_name(row.path), row.reason))
        else:
            vectors.append(row.embedding)
            indices.append(index)
        on_progress(task, index + 1, len(paths))
    if not vectors:
        raise ValueError(f"none of the {len(paths)} images can be read, first {skipped[0].path}: {skipped[0].reason}")
    return ImageEmbeddings(np.stack(vectors), np.array(indices), tuple(skipped), input_size)


def embed_dataset(
    model: Model, data: ClassificationDataset, size: int | None, on_progress: ProgressCallback
) -> LabeledEmbeddings:
    """Embed a classification dataset.

    Unreadable images are skipped, and then the images of classes without a readable image to fit on.

    Raises:
        ValueError: No image can be read, or none of the training or of the validation images; or fewer than two classes
            are left.
    """
    embedded = embed_images(model.runner, data.paths, size, on_progress, f"embedding with {model.name}")
    validation = None if data.validation is None else data.validation[embedded.indices]
    if validation is not None and (validation.all() or not validation.any()):
        raise ValueError(f"no image in {'train' if validation.all() else 'val'} can be read")
    labels = data.labels[embedded.indices]
    usable = _usable_classes(labels, validation, len(data.classes))
    kept = usable[labels]
    lack = "fewer than two readable images" if validation is None else "no readable image in train"
    left_over = embedded.indices[~kept]
    skipped = (
        data.skipped
        + embedded.skipped
        + tuple(SkippedImage(display_name(str(data.paths[i])), f"its class has {lack}") for i in left_over)
    )
    classes = tuple(name for name, is_usable in zip(data.classes, usable, strict=True) if is_usable)
    validation = None if validation is None else validation[kept]
    if len(classes) < 2 or (validation is not None and not validation.any()):
        raise ValueError(
            f"{len(classes)} class{'es' * (len(classes) != 1)} with readable images to fit on, and two with images to "
            f"measure on are needed; {len(skipped)} files are skipped, first {skipped[0].path}: {skipped[0].reason}"
        )
    numbers = np.cumsum(usable) - 1  # of the classes that are left
    return LabeledEmbeddings(
        embedded.vectors[kept], numbers[labels[kept]], classes, validation, skipped, embedded.input_size
    )


def _usable_classes(labels: np.ndarray, validation: np.ndarray | None, classes: int) -> np.ndarray:
    """Return the (classes,) mask of those with a training image or, without a split, with two images."""
    if validation is None:
        return np.bincount(labels, minlength=classes) >= 2
    return np.bincount(labels[~validation], minlength=classes) >= 1


def cached_embedder() -> DatasetEmbedder:
    """Return an `embed_dataset` with a cache, so that several probes embed each dataset once for each model."""
    cache: dict[tuple[int, int, int | None], LabeledEmbeddings] = {}

    def embed(
        model: Model, data: ClassificationDataset, size: int | None, on_progress: ProgressCallback
    ) -> LabeledEmbeddings:
        key = id(model), id(data), size
        if key not in cache:
            cache[key] = embed_dataset(model, data, size, on_progress)
        return cache[key]

    return embed


def square_input_size(runner: Runner, size: int | None) -> tuple[int, int]:
    """Return the (height, width) that the model accepts and that is nearest to a square of the given side.

    None means the model's own size.
    """
    side = size or runner.preprocessing.size
    return runner.nearest_size(side, side)
