"""Labeled images of a run: pixels, images or objects with classes, split into training and validation."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from gtsa_kit.config.finetune import FinetuneConfig, LabeledDataConfig
from gtsa_kit.data.channels.reader import ImageReader, read_pixels
from gtsa_kit.data.image_io import open_image
from gtsa_kit.data.label_colors import fill_colors
from gtsa_kit.data.label_file import read_mask_options
from gtsa_kit.data.label_report import LabelReport, PreparedClasses, PreparedMasks, prepare_classes, prepare_masks
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.data.skipped import SkippedImage
from gtsa_kit.data.split_rule import parse_split_rule
from gtsa_kit.models.preprocessing import InputImage
from gtsa_kit.models.task_spec import Label, MaskFormat, Task
from gtsa_kit.progress import ProgressCallback, no_progress
from gtsa_kit.tasks.object_data import open_objects
from gtsa_kit.tasks.prepared_data import PreparedData, median_short_side


class TaskData(Protocol):
    """Labeled images by number."""

    task: ClassVar[Task]

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes by class number."""

    @property
    def report(self) -> LabelReport:
        """Counts and warnings."""

    @property
    def validation(self) -> np.ndarray:
        """Validation images, (N,) bool."""

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """Files that are not used."""

    @property
    def reader(self) -> ImageReader:
        """Reader of the images."""

    def name(self, index: int) -> str:
        """Return the name of an image in reports."""

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files that an image and its label are read from."""

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) in pixels of an image with labeled pixels or objects; (0, 0) for one with a class."""

    def label(self, index: int) -> Any:
        """Read a label: (H, W) uint8 class numbers of pixels, the () int64 class number of an image, or `Objects`."""

    def labels_digest(self) -> str:
        """Return the SHA-256 of labels that lie in other files than those of `files`, else ""."""


class _Prepared(PreparedData):
    """Base of images with masks and of images with classes."""

    prepared: PreparedMasks | PreparedClasses

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """Files that are not used."""
        return self.prepared.data.skipped

    @property
    def reader(self) -> ImageReader:
        """Reader of the images."""
        return self.prepared.data.reader

    def labels_digest(self) -> str:
        """Return "": labels are masks of their own, or folders and names."""
        return ""


@dataclass(frozen=True)
class MaskData(_Prepared):
    """Images with masks."""

    prepared: PreparedMasks
    task: ClassVar[Task] = "segment"

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes by class number."""
        label_map = self.prepared.data.label_map
        aliases = (tuple(label_map.values_of(number)[1:].tolist()) for number in range(len(label_map.classes)))
        return tuple(map(Label, label_map.ids, label_map.classes, label_map.colors, aliases))

    def name(self, index: int) -> str:
        """Return the name of an image in reports."""
        return self.prepared.data.pairs[index].name

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and mask."""
        pair = self.prepared.data.pairs[index]
        return pair.image, pair.mask

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        pair = self.prepared.data.pairs[index]
        return pair.width, pair.height

    def label(self, index: int) -> np.ndarray:
        """Read the (H, W) uint8 class numbers of a mask."""
        return self.prepared.data.labels(self.prepared.data.pairs[index])

    @property
    def label_masks(self) -> MaskFormat:
        """Meaning of the values of masks."""
        return "color" if self.prepared.data.label_map.in_color else "index"

    def short_side(self) -> int:
        """Return the median short side of the images in pixels."""
        return median_short_side(self.prepared.data.pairs)


@dataclass(frozen=True)
class ClassData(_Prepared):
    """Images with a class each."""

    prepared: PreparedClasses
    task: ClassVar[Task] = "classify"

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes by class number."""
        classes = self.prepared.data.classes
        return tuple(map(Label, range(len(classes)), classes, fill_colors([None] * len(classes))))

    def name(self, index: int) -> str:
        """Return the name of an image in reports."""
        data = self.prepared.data
        return data.names[index] if data.names else data.paths[index].name

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image."""
        return (self.prepared.data.paths[index],)

    def size(self, index: int) -> tuple[int, int]:
        """Return (0, 0): inputs are stretched to one size, and images are not opened before they are used."""
        return 0, 0

    def label(self, index: int) -> np.ndarray:
        """Return the () int64 class number of an image."""
        return np.asarray(self.prepared.data.labels[index])


def open_task_data(config: FinetuneConfig, on_progress: ProgressCallback = no_progress) -> TaskData:
    """Read and check the labeled images of a run.

    Raises:
        ValueError: They can't be used; see `prepare_masks`, `prepare_classes` and `prepare_instances`.
    """
    reader = ImageReader(config.channels)
    if config.task == "segment":
        return open_masks(config.data, config.train.seed, on_progress, reader)
    if config.task == "detect":
        return open_objects(config.data, config.train.seed, config.head.name != "faster-rcnn", on_progress, reader)
    rule = parse_split_rule(config.data.val_split, config.train.seed)
    data = read_classification_dataset(Path(config.data.source), config.data.max_missing, reader)
    return ClassData(prepare_classes(data, rule, config.data.max_missing, on_progress=on_progress))


def open_masks(
    config: LabeledDataConfig,
    seed: int,
    on_progress: ProgressCallback = no_progress,
    reader: ImageReader | None = None,
) -> MaskData:
    """Read and check images with masks; see `open_task_data`."""
    labels = Path(config.labels) if config.labels else None
    options = replace(read_mask_options(labels, config.ignore), suffix=config.mask_suffix)
    data = read_segmentation_dataset(Path(config.source), None, options, on_progress, config.max_missing, reader)
    return MaskData(prepare_masks(data, parse_split_rule(config.val_split, seed), config.max_missing))


def training_images(data: TaskData) -> list[int]:
    """Return the numbers of the training images."""
    return np.flatnonzero(~data.validation).tolist()


def validation_images(data: TaskData) -> list[int]:
    """Return the numbers of the validation images."""
    return np.flatnonzero(data.validation).tolist()


def open_labeled(data: TaskData, index: int) -> InputImage:
    """Decode an image to upright RGB, or to samples (H, W, N); raise `ImageError` if it can't be read."""
    path = data.files(index)[0]
    return open_image(path) if data.reader.channels.is_rgb else read_pixels(path, data.reader)


def data_digest(data: TaskData) -> str:
    """Return the SHA-256 of names, sizes in bytes, split and labels: a resumed run must have the same."""
    rows = [
        [data.name(i), bool(is_validation), *(file.stat().st_size for file in data.files(i))]
        for i, is_validation in enumerate(data.validation)
    ]
    facts = [rows, [[label.id, label.name, label.aliases] for label in data.labels]]
    content = json.dumps([*facts, data.labels_digest()] if data.labels_digest() else facts)
    return hashlib.sha256(content.encode()).hexdigest()
