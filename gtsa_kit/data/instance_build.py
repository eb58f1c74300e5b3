"""Datasets from listings of images and objects: sizes, checks and order are the same for all formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.entries import natural_key
from gtsa_kit.data.instance_images import ListedImage, read_sizes
from gtsa_kit.data.instances import InstanceDataset, InstanceImage, InstanceLabel, Objects
from gtsa_kit.data.label_colors import fill_colors
from gtsa_kit.data.object_columns import ObjectColumns, ObjectTable
from gtsa_kit.data.orientation import orient_boxes
from gtsa_kit.data.segmentations import NONE, POLYGONS, RUNS
from gtsa_kit.data.skipped import SkippedImage
from gtsa_kit.data.splits import SPLITS
from gtsa_kit.progress import ProgressCallback

Kept = Sequence[InstanceImage | None]
"""Images by their number in the file, None for one that can't be used."""


@dataclass
class Listing:
    """Content of a dataset's files."""

    objects: ObjectColumns
    classes: Mapping[int, str] = field(default_factory=dict)
    """Names of the classes by their number in the files, in the order of the class numbers."""
    images: list[ListedImage] = field(default_factory=list)
    relative: bool = False
    """True if boxes and polygons are shares of the width and the height of the images."""
    skipped: list[SkippedImage] = field(default_factory=list)
    """Files that belong to no image, and images of another split."""
    reader: ImageReader = field(default_factory=ImageReader)
    """Reader of the images."""


def build_dataset(listing: Listing, max_missing: float, on_progress: ProgressCallback, source: Path) -> InstanceDataset:
    """Read the headers of the images and check the objects.

    Args:
        listing: Content of the files.
        max_missing: Largest share of images, and of objects, that may be unusable.
        on_progress: Progress callback.
        source: Name of the dataset in errors.

    Raises:
        ValueError: Nothing or too little of it can be used.
    """
    if not listing.images:
        raise ValueError(f"{source} lists no images; give labels of some")
    if not len(listing.objects):
        raise ValueError(f"{source} holds no objects; give labels that have boxes")
    images, skipped = read_sizes(listing.images, on_progress, listing.reader)
    kept = sorted((image for image in images if image), key=lambda image: (image.split or "", natural_key(image.name)))
    table = listing.objects.finish()
    sides = np.array([(image.width, image.height) if image else (1, 1) for image in [*images, None]])[table.images]
    if listing.relative:
        boxes, store = table.boxes * np.tile(sides, 2), table.segmentations.scale(sides)
        table = table._replace(boxes=boxes, segmentations=store)
    boxes = _upright_boxes(_with_boxes(table), table.images, images, sides)
    considered = np.array([image is not None for image in images] + [True])[table.images]  # the last is for -1
    has_masks = listing.objects.masks and bool((table.segmentations.kinds != NONE).any())
    problems = _problems(listing.objects, table, boxes, sides, has_masks)
    skipped_objects = [
        SkippedImage(listing.objects.location(row), reason) for row, reason in problems.items() if considered[row]
    ]
    considered[list(problems)] = False
    dataset = InstanceDataset(
        kept,
        _labels(listing.classes),
        has_masks,
        (*listing.skipped, *skipped),
        tuple(skipped_objects),
        _clipped(listing.objects, boxes, sides, considered),
        _select(table, boxes, images, kept, considered),
        listing.reader,
    )
    dataset.check(max_missing)
    _check_parts(dataset, source)
    return dataset


def _problems(
    columns: ObjectColumns, table: ObjectTable, boxes: np.ndarray, sides: np.ndarray, has_masks: bool
) -> dict[int, str]:
    """Return the first fault of each object that has one, by its row, in ascending order."""
    problems = dict(columns.faults)
    for wrong, reason in [*_box_faults(table, boxes, sides), *(_mask_faults(table, sides) if has_masks else [])]:
        problems |= {int(row): reason for row in np.flatnonzero(wrong) if int(row) not in problems}
    return dict(sorted(problems.items()))


def _with_boxes(table: ObjectTable) -> np.ndarray:
    """Return the boxes; an object without one gets that of its segmentation."""
    missing = np.isnan(table.boxes).all(1)
    if not missing.any():
        return table.boxes
    bounds = table.segmentations.polygon_bounds()
    for row in np.flatnonzero(missing & (table.segmentations.kinds == RUNS)):
        bounds[row] = table.segmentations.run_bounds(int(row)) or np.nan
    low, high = bounds[:, :2], bounds[:, 2:]
    return np.where(missing[:, None], np.concatenate([low, high - low], axis=1), table.boxes)


def _upright_boxes(boxes: np.ndarray, numbers: np.ndarray, images: Kept, sides: np.ndarray) -> np.ndarray:
    """Return the boxes on the upright images, whose width and height are `sides` (M, 2)."""
    orientations = np.array([image.orientation if image else 1 for image in [*images, None]])[numbers]
    boxes = boxes.copy()
    for orientation in set(orientations[orientations > 1].tolist()):
        own = orientations == orientation
        boxes[own] = orient_boxes(boxes[own], orientation, *sides[own].T)
    return boxes


def _box_faults(table: ObjectTable, boxes: np.ndarray, sides: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return which objects have a fault of their box or area, and the fault in words."""
    low, extent = boxes[:, :2], boxes[:, 2:]
    inside = np.minimum(low + extent, sides) - np.maximum(low, 0)
    return [
        (~np.isfinite(boxes).all(1), "no box, or one that is not of finite numbers"),
        (~(extent > 0).all(1), "a box of no area"),
        (~(inside > 0).all(1), "a box outside of its image"),
        ((table.areas < 0) | np.isinf(table.areas), "an area that is not of 0 or more"),
    ]


def _mask_faults(table: ObjectTable, sides: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return which objects have a fault of their mask, and the fault in words."""
    store = table.segmentations
    none = (store.kinds == NONE) & ~table.crowd
    # A mask on stored pixels has the sides exchanged; either way they are the same two.
    other = (store.kinds == RUNS) & (np.sort(store.sizes, 1) != np.sort(sides, 1)).any(1)
    bounds, reach = store.polygon_bounds(), sides.max(1, keepdims=True)
    inside = (bounds[:, :2] >= -reach).all(1) & (bounds[:, 2:] <= 2 * reach).all(1)
    return [
        (none, "no mask, which others have; to use boxes alone give --no-masks"),
        (other, "a mask of another size than its image"),
        ((store.kinds == POLYGONS) & ~inside, "a polygon outside of its image"),
    ]


def _clipped(columns: ObjectColumns, boxes: np.ndarray, sides: np.ndarray, used: np.ndarray) -> tuple[str, ...]:
    """Return a sentence about the boxes that reach beyond their images by more than a pixel."""
    beyond = (boxes[:, :2] < -1).any(1) | (boxes[:, :2] + boxes[:, 2:] > sides + 1).any(1)
    rows = np.flatnonzero(beyond & used)
    if not len(rows):
        return ()
    first = columns.location(int(rows[0]))
    return (f"{len(rows):,} boxes reach beyond their images and are cut off at the edge, first {first}",)


def _select(
    table: ObjectTable, boxes: np.ndarray, images: Kept, kept: Sequence[InstanceImage], used: np.ndarray
) -> Objects:
    """Return the used objects in the order of the kept images."""
    index_of = {id(image): i for i, image in enumerate(kept)}
    position = np.array([index_of[id(image)] if image else -1 for image in [*images, None]])[table.images]
    rows = np.flatnonzero(used)
    rows = rows[np.argsort(position[rows], kind="stable")]
    starts = np.searchsorted(position[rows], np.arange(len(kept) + 1))
    return Objects(
        starts, boxes[rows], table.classes[rows], table.crowd[rows], table.areas[rows], rows, table.segmentations
    )


def _labels(classes: Mapping[int, str]) -> tuple[InstanceLabel, ...]:
    colors = fill_colors([None] * len(classes))
    return tuple(
        InstanceLabel(number, name, color) for (number, name), color in zip(classes.items(), colors, strict=True)
    )


def _check_parts(dataset: InstanceDataset, source: Path) -> None:
    """Raise `ValueError` if a part has no image, or nothing can be split."""
    if not dataset.images:
        first = dataset.skipped[0]
        raise ValueError(f"no image of {source} can be used, first {first.path}: {first.reason}")
    splits = {image.split for image in dataset.images}
    if splits == {None} and len(dataset.images) < 2:
        raise ValueError("one image can't be split; give at least two")
    if None not in splits and len(splits) < 2:
        raise ValueError(f"no usable image is in {(set(SPLITS) - splits).pop()}")
