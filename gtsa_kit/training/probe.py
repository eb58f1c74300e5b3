"""k-NN accuracy of the encoder on a small labeled set, measured while a run trains."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.data.labeled import read_classification_dataset, stratified_split
from gtsa_kit.files import write_json
from gtsa_kit.knn import KNNClassifier
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.training.fixed_images import encode, to_square

MAX_IMAGES: Final = 300
MIN_IMAGES: Final = 40
MAX_SECONDS: Final = 20.0
"""Largest time of one measurement: on slow machines the set is smaller, but for `MIN_IMAGES`."""
NEIGHBORS: Final = 10
TEMPERATURE: Final = 0.07


@dataclass(frozen=True)
class Probe:
    """Images of a labeled set, in memory."""

    pixels: Tensor
    """Images stretched to squares, (N, 3, S, S) uint8."""
    labels: np.ndarray
    """Class numbers, (N,)."""
    validation: np.ndarray
    """Mask of the images that are classified by the others, (N,) bool."""
    classes: int

    @property
    def chance(self) -> float:
        """Accuracy of always guessing the most frequent class of the validation images, 0 to 1."""
        counts = np.bincount(self.labels[self.validation])
        return float(counts.max() / counts.sum())

    def accuracy(self, encoder: Encoder) -> float:
        """Return the fraction of validation images that their nearest neighbors classify correctly."""
        features = encode(encoder, self.pixels).embedding.numpy()
        train, validation = ~self.validation, self.validation
        classifier = KNNClassifier(features[train], np.eye(self.classes, dtype=np.float32)[self.labels[train]])
        scores = classifier.scores(features[validation], (NEIGHBORS,), TEMPERATURE)[0]
        return float((scores.argmax(axis=1) == self.labels[validation]).mean())


def open_probe(source: Path, chosen: Path, size: int, encoder: Encoder, pixels: Tensor) -> Probe:
    """Open a labeled set: class folders, or a CSV of paths and labels.

    A large set is represented by a part of it, which a file in the run folder keeps for resumed runs.

    Args:
        source: Folder or CSV, as for `gtsa eval knn`.
        chosen: File with the chosen images, written if it is missing.
        size: Side of the input in pixels.
        encoder: Encoder whose speed determines the size of the part, and whose preprocessing is used.
        pixels: Some images (M, 3, S, S) uint8 to measure the speed with.

    Raises:
        ValueError: The source is no labeled set, or too few of its images can be read.
    """
    if not chosen.exists():
        write_json(chosen, {"images": _choose(source, max_images(encoder, pixels))})
    rows: list[dict[str, Any]] = json.loads(chosen.read_text(encoding="utf-8"))["images"]
    readable = [
        (row, image) for row in rows if (image := _read(Path(row["path"]), size, encoder.preprocessing)) is not None
    ]
    labels = np.array([row["label"] for row, _ in readable], np.int64)
    validation = np.array([row["validation"] for row, _ in readable], bool)
    if not validation.any() or validation.all():
        raise ValueError(f"too few images of the probe {source} can be read; check the folder, or omit --probe")
    return Probe(torch.stack([image for _, image in readable]), labels, validation, int(labels.max()) + 1)


def max_images(encoder: Encoder, pixels: Tensor) -> int:
    """Return the number of images that an encoder embeds in `MAX_SECONDS`, within the limits."""
    encode(encoder, pixels)  # the first call is slow
    start = time.perf_counter()
    encode(encoder, pixels)
    each = (time.perf_counter() - start) / max(len(pixels), 1)
    return int(np.clip(MAX_SECONDS / max(each, 1e-9), MIN_IMAGES, MAX_IMAGES))


def _choose(source: Path, count: int) -> Sequence[dict[str, Any]]:
    """Choose up to about `count` images, the same fraction of every class and split."""
    data = read_classification_dataset(source)
    validation = stratified_split(data.labels, 0.5, 0) if data.validation is None else data.validation
    groups = 2 * data.labels + validation
    selected = np.ones(len(groups), bool) if len(groups) <= count else stratified_split(groups, count / len(groups), 0)
    return [
        {"path": str(data.paths[i].absolute()), "label": int(data.labels[i]), "validation": bool(validation[i])}
        for i in np.flatnonzero(selected)
    ]


def _read(path: Path, size: int, preprocessing: Preprocessing) -> Tensor | None:
    try:
        return to_square(open_image(path), size, preprocessing)
    except ImageError:
        return None
