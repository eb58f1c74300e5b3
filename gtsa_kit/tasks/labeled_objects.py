"""Labeled images for scores of detectors: their objects, by the class numbers of a model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.instance_reader import read_instance_dataset
from gtsa_kit.progress import ProgressCallback, no_progress
from gtsa_kit.tasks.object_data import Objects


class LabeledObjects(NamedTuple):
    """Images with objects."""

    paths: list[Path]
    read: Callable[[int], Objects]
    """Function from the number of an image to its objects."""
    masks: bool
    """True if the objects have masks."""


def read_labeled_objects(
    data: Path,
    names: Sequence[str],
    masks: bool,
    annotations: Path | None = None,
    on_progress: ProgressCallback = no_progress,
    reader: ImageReader | None = None,
) -> LabeledObjects:
    """Read images with objects as `gtsa finetune` does: those of the validation split, else all.

    Args:
        data: JSON file of COCO, or a folder; see `read_instance_dataset`.
        names: Classes of the model by class number.
        masks: Whether the model gives masks.
        annotations: JSON file of COCO for the images in the folder `data`.
        on_progress: Progress callback.
        reader: Reader of the images; None reads 8-bit RGB.

    Raises:
        ValueError: The data can't be read, or has objects of other classes.
    """
    source, images = (data, None) if annotations is None else (annotations, data)
    dataset = read_instance_dataset(source, images, None, masks, on_progress, reader=reader)
    used = [number for number, image in enumerate(dataset.images) if image.split in (None, "val")]
    present = np.flatnonzero(dataset.counts()[used].sum(0))
    if unknown := [dataset.classes[number] for number in present if dataset.classes[number] not in names]:
        raise ValueError(
            f"{data} has objects of the class {unknown[0]!r}, the model has {', '.join(names)}; give data with these"
        )
    class_numbers = [names.index(name) if name in names else -1 for name in dataset.classes]

    def read(number: int) -> Objects:
        image, items = dataset.images[used[number]], dataset.annotations(used[number])
        own: list[dict[str, Any]] = [item | {"category_id": class_numbers[item["category_id"]]} for item in items]
        size = image.height, image.width
        return Objects(number, size, [item for item in own if item["category_id"] >= 0])

    return LabeledObjects([dataset.images[number].path for number in used], read, dataset.has_masks)
