"""Files and table rows of predictions: masks, overlays, run lengths, classes."""

from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gtsa_kit.data.decode import decode
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.models.task_spec import Label, Task
from gtsa_kit.tasks.mask_files import draw_overlay, encode_mask, pixel_values
from gtsa_kit.tasks.output_names import output_name
from gtsa_kit.tasks.predict_images import Prediction
from gtsa_kit.tasks.predict_store import MASKS, OVERLAYS, PredictedRow
from gtsa_kit.tasks.rle import bounding_box, encode_rle

TOP = 5
"""Classes of an image in predictions.csv, the most probable first."""
_COUNTED_PIXELS = 1 << 22


@dataclass(frozen=True)
class ResultRows:
    """Function from a prediction to its rows and the content of its files. It may be called from many threads."""

    source: Source
    labels: tuple[Label, ...]
    repeated: Set[str]
    """Names that several images of the source have."""
    overlay: bool
    rle: bool
    max_pixels: int

    def __call__(self, item: tuple[int, Entry], prediction: Prediction) -> PredictedRow | FailedImage:
        """Return the rows and files of a prediction; `item` is the index of the image and its entry."""
        index, entry = item
        first = prediction.path, prediction.sha256
        if prediction.probabilities is not None:
            return PredictedRow((*first, *_top_classes(prediction.probabilities, self.labels)))
        mask = prediction.mask
        assert mask is not None
        name = f"{MASKS}/{output_name(entry.name, '.png', self.repeated, index)}"
        files = [(name, encode_mask(mask, self.labels))]
        if self.overlay:
            try:
                image, _ = decode(read_entry(self.source, entry), entry.name, self.max_pixels)
                drawn = draw_overlay(image, mask, self.labels)
            except ImageError as error:  # it changed since it was read
                return FailedImage(entry.name, error.reason)
            files.append((f"{OVERLAYS}/{output_name(entry.name, '.jpg', self.repeated, index)}", drawn))
        shares = class_shares(mask, len(self.labels))
        columns = (*first, name, prediction.width, prediction.height, *(f"{share:.6g}" for share in shares))
        lines = tuple(segments(prediction.path, mask, self.labels)) if self.rle else ()
        return PredictedRow(columns, lines, tuple(files))


def table_header(task: Task, labels: tuple[Label, ...]) -> list[str]:
    """Return the columns of predictions.csv."""
    if task == "segment":
        return ["path", "sha256", "mask", "width", "height", *(f"share_{label.name}" for label in labels)]
    more = [f"{name}_{i}" for i in range(2, min(TOP, len(labels)) + 1) for name in ("label", "probability")]
    return ["path", "sha256", "label", "probability", *more]


def describe_labels(task: Task, labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    """Return the labels by class number with their ids, names and colors, and for masks the value of their pixels."""
    described = [asdict(label) for label in labels]
    if task == "classify":
        return described
    return [{"pixel": int(v), **label} for v, label in zip(pixel_values(labels)[0], described, strict=True)]


def class_shares(mask: np.ndarray, classes: int) -> np.ndarray:
    """Return the share (K,) of the pixels of a mask that each class has."""
    rows = max(1, _COUNTED_PIXELS // mask.shape[1])  # bincount makes a copy of eight bytes a pixel
    bands = (mask[i : i + rows].ravel() for i in range(0, len(mask), rows))
    counts: np.ndarray = np.stack([np.bincount(band, minlength=classes) for band in bands]).sum(axis=0)
    return np.asarray(counts / mask.size)


def segments(path: str, mask: np.ndarray, labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    """Return the pixels of each class in a mask as an annotation of COCO, with `path` for the image."""
    annotations = []
    for number in np.unique(mask):
        label, pixels = labels[number], mask == number
        annotations.append(
            {
                "path": path,
                "category_id": label.id,
                "category": label.name,
                "segmentation": encode_rle(pixels),
                "area": int(pixels.sum()),
                "bbox": bounding_box(pixels),
            }
        )
    return annotations


def top_classes(probabilities: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Return (class number, probability) of the most probable classes; of equal ones the lower number is first."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(number), float(probabilities[number])) for number in order]


def _top_classes(probabilities: np.ndarray, labels: tuple[Label, ...]) -> list[str]:
    return [text for n, p in top_classes(probabilities, TOP) for text in (labels[n].name, f"{p:.6f}")]
