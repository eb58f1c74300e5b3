"""Datasets of images with objects: their boxes, classes and masks, whatever format they were read from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.label_colors import Color
from gtsa_kit.data.orientation import orient_mask
from gtsa_kit.data.rle_text import compress_counts, decode_counts, run_lengths
from gtsa_kit.data.segmentations import Segmentations
from gtsa_kit.data.skipped import SkippedImage, check_missing, faults
from gtsa_kit.data.split_rule import Split, SplitRule, choose_validation

OBJECTS_HINT = "repair or remove them, or allow more with --max-missing"


class Instances(NamedTuple):
    """The N objects of an image, in pixels of the upright image."""

    boxes: np.ndarray
    """Boxes x0, y0, x1, y1 inside of the image, (N, 4) float32; pixel i covers i to i + 1."""
    classes: np.ndarray
    """Class numbers, (N,) int64."""
    crowd: np.ndarray
    """Regions of several objects, which are neither learned nor scored, (N,) bool."""
    masks: np.ndarray | None
    """Masks, (N, H, W) bool; None for boxes alone."""


class InstanceLabel(NamedTuple):
    """A class of objects."""

    id: int
    """Number of the class in the user's data: the category id of COCO, or the class in YOLO's files."""
    name: str
    color: Color
    """Color in pictures."""


class InstanceImage(NamedTuple):
    """An image whose header has been read."""

    name: str
    """Path of the image relative to its folder, prefixed by the split if there is one."""
    path: Path
    width: int
    """Width of the upright image, in pixels."""
    height: int
    """Height of the upright image, in pixels."""
    split: str | None
    """`train`, `val`, or None where the dataset has no split."""
    orientation: int = 1
    """EXIF orientation of the image if its masks are drawn on the stored pixels; else 1."""


@dataclass(frozen=True)
class Objects:
    """The M objects of all images, in the order of the images."""

    starts: np.ndarray
    """Bounds of the images in the other arrays, (number of images + 1,) int64."""
    boxes: np.ndarray
    """Boxes x, y, width, height in pixels of the upright image, as the file has them, (M, 4) float64."""
    classes: np.ndarray
    """Class numbers, (M,) int64."""
    crowd: np.ndarray
    """Regions of several objects, (M,) bool."""
    areas: np.ndarray
    """Areas in square pixels that the file states, (M,) float64; NaN where it states none."""
    rows: np.ndarray
    """Row of each object in `segmentations`, (M,) int64."""
    segmentations: Segmentations


@dataclass(frozen=True)
class InstanceDataset:
    """Images with objects."""

    images: list[InstanceImage]
    labels: tuple[InstanceLabel, ...]
    """Classes by class number."""
    has_masks: bool
    """True if the objects have masks."""
    skipped: tuple[SkippedImage, ...]
    """Images that are not used, with the reason."""
    skipped_objects: tuple[SkippedImage, ...]
    """Objects of used images that are not used: where they are written, with the reason."""
    notes: tuple[str, ...]
    """Sentences about what looks wrong and stops nothing."""
    objects: Objects
    reader: ImageReader = field(default_factory=ImageReader)
    """Reader of the images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by class number."""
        return tuple(label.name for label in self.labels)

    @property
    def has_split(self) -> bool:
        """True if the dataset is split into training and validation images."""
        return self.images[0].split is not None

    def instances(self, index: int, masks: bool = True) -> Instances:
        """Return the objects of an image; with `masks`, polygons and run lengths become masks here."""
        image, own = self.images[index], self._own(index)
        x, y, width, height = self.objects.boxes[own].T
        boxes = np.stack([x, y, x + width, y + height], 1).astype(np.float32)
        boxes = boxes.clip(0, np.array([image.width, image.height] * 2, np.float32))
        drawn = None
        if masks and self.has_masks:
            drawn = np.zeros((len(boxes), image.height, image.width), bool)
            for mask, row in zip(drawn, self.objects.rows[own], strict=True):
                mask[:] = self._mask(image, row)
        return Instances(boxes, self.objects.classes[own], self.objects.crowd[own], drawn)

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """Return the objects of an image as COCO writes them, in pixels of the upright image.

        Each has `bbox` [x, y, width, height], `category_id` (the class number), `area`, `iscrowd`, and, if the dataset
        has masks, `segmentation` as run lengths. An area that the file does not state is that of the mask or the box.
        """
        image, objects, result = self.images[index], self.objects, []
        for i in range(*objects.starts[index : index + 2]):
            item: dict[str, Any] = {"bbox": objects.boxes[i].tolist(), "category_id": int(objects.classes[i])}
            item["iscrowd"] = int(objects.crowd[i])
            area = float(objects.areas[i])
            if self.has_masks:
                item["segmentation"] = self._runs(image, int(objects.rows[i]))
            if np.isnan(area):
                area = self._area(item)
            result.append(item | {"area": area})
        return result

    def counts(self) -> np.ndarray:
        """Return the number of objects of each class in each image, (N, K) int64, without crowd regions."""
        counts = np.zeros((len(self.images), len(self.labels)), np.int64)
        image = np.repeat(np.arange(len(self.images)), np.diff(self.objects.starts))
        single = ~self.objects.crowd
        np.add.at(counts, (image[single], self.objects.classes[single]), 1)
        return counts

    def validation(self, fraction: float, seed: int) -> np.ndarray:
        """Return the (N,) bool mask of the validation images: the dataset's split, or a random `fraction` of them."""
        return self.split(SplitRule(fraction, "random", seed=seed)).validation

    def split(self, rule: SplitRule) -> Split:
        """Return which images are for validation: the dataset's own split, or, where it has none, by a rule."""
        if self.has_split:
            return Split(np.array([image.split == "val" for image in self.images]), "as the dataset has it")
        return choose_validation([image.name for image in self.images], rule)

    def check(self, limit: float) -> None:
        """Raise `ValueError` if more than the share `limit` of the images, or of the objects, can't be used."""
        images, objects = faults(self.skipped), len(self.objects.classes) + len(self.skipped_objects)
        check_missing(images, len(self.images) + len(images), "images", OBJECTS_HINT, limit)
        check_missing(self.skipped_objects, objects, "objects", OBJECTS_HINT, limit)

    def _own(self, index: int) -> slice:
        return slice(int(self.objects.starts[index]), int(self.objects.starts[index + 1]))

    def _mask(self, image: InstanceImage, row: int) -> np.ndarray:
        height, width = _stored_size(image)
        return orient_mask(self.objects.segmentations.mask(row, height, width), image.orientation)

    def _runs(self, image: InstanceImage, row: int) -> dict[str, Any]:
        if image.orientation == 1:
            return self.objects.segmentations.runs(row, image.height, image.width)
        counts = compress_counts(run_lengths(self._mask(image, row)))
        return {"size": [image.height, image.width], "counts": counts.encode()}

    def _area(self, item: dict[str, Any]) -> float:
        if "segmentation" in item:
            return float(decode_counts(item["segmentation"]["counts"])[1::2].sum())
        return float(item["bbox"][2] * item["bbox"][3])


def _stored_size(image: InstanceImage) -> tuple[int, int]:
    size = image.height, image.width
    return size[::-1] if image.orientation > 4 else size
