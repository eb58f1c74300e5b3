"""Labeled images of a run whose labels are objects with boxes, and with masks if there are any."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gtsa_kit.config.finetune import LabeledDataConfig
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.instance_reader import read_instance_dataset
from gtsa_kit.data.instance_report import PreparedInstances, prepare_instances
from gtsa_kit.data.skipped import SkippedImage
from gtsa_kit.data.split_rule import parse_split_rule
from gtsa_kit.models.task_spec import Label, Task
from gtsa_kit.progress import ProgressCallback, no_progress
from gtsa_kit.tasks.prepared_data import PreparedData, median_short_side


class Objects(NamedTuple):
    """True objects of an image, for scores and pictures."""

    number: int
    """Number of the image."""
    size: tuple[int, int]
    """Height and width of the upright image in pixels."""
    annotations: list[dict[str, Any]]
    """Objects as COCO writes them, with the class number as `category_id`."""


@dataclass(frozen=True)
class ObjectData(PreparedData):
    """Images with objects."""

    prepared: PreparedInstances
    task: ClassVar[Task] = "detect"

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes by class number."""
        return tuple(Label(label.id, label.name, label.color) for label in self.prepared.data.labels)

    @property
    def has_masks(self) -> bool:
        """True if the objects have masks."""
        return self.prepared.data.has_masks

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """Images and objects that are not used."""
        return (*self.prepared.data.skipped, *self.prepared.data.skipped_objects)

    def name(self, index: int) -> str:
        """Return the name of an image in reports."""
        return self.prepared.data.images[index].name

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image."""
        return (self.prepared.data.images[index].path,)

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        image = self.prepared.data.images[index]
        return image.width, image.height

    def label(self, index: int) -> Objects:
        """Return the true objects of an image."""
        image = self.prepared.data.images[index]
        return Objects(index, (image.height, image.width), self.prepared.data.annotations(index))

    def short_side(self) -> int:
        """Return the median short side of the images in pixels."""
        return median_short_side(self.prepared.data.images)

    @property
    def reader(self) -> ImageReader:
        """Reader of the images."""
        return self.prepared.data.reader

    def labels_digest(self) -> str:
        """Return the SHA-256 of all boxes, classes and masks, which lie in other files than the images."""
        objects = self.prepared.data.objects
        digest = hashlib.sha256(objects.segmentations.text)
        arrays = [objects.starts, objects.boxes, objects.classes, objects.crowd]
        for array in (*arrays, objects.segmentations.points, objects.segmentations.polygon_rows):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def open_objects(
    config: LabeledDataConfig,
    seed: int,
    masks: bool,
    on_progress: ProgressCallback = no_progress,
    reader: ImageReader | None = None,
) -> ObjectData:
    """Read and check images with objects; without `masks`, their boxes alone.

    Raises:
        ValueError: They can't be used; see `prepare_instances`.
    """
    images, val = (Path(path) if path else None for path in (config.images, config.val))
    data = read_instance_dataset(Path(config.source), images, val, masks, on_progress, config.max_missing, reader)
    return ObjectData(prepare_instances(data, parse_split_rule(config.val_split, seed), config.max_missing))
