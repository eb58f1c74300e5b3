"""Files and table rows of predictions: masks, overlays, run lengths, classes, detections."""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gtsa_kit.data.decode import decode
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.label_map import VOID
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.models.channel_images import reader_of
from gtsa_kit.models.pictures import rgb_picture
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.task_spec import Label, Task
from gtsa_kit.tasks.detection_pictures import draw_detections
from gtsa_kit.tasks.detections import describe_detections
from gtsa_kit.tasks.geotiff import encode_geotiff, read_position
from gtsa_kit.tasks.mask_files import MAX_OVERLAY_SIDE, draw_overlay, encode_mask, pixel_values
from gtsa_kit.tasks.output_names import output_name
from gtsa_kit.tasks.predict_images import Prediction
from gtsa_kit.tasks.predict_store import MASKS, OVERLAYS, RESULTS, RLE, PredictedRow
from gtsa_kit.tasks.rle import bounding_box, encode_rle
from gtsa_kit.tasks.scene import Scene

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
    preprocessing: Preprocessing
    """Preprocessing of the model, which says how images are read."""
    max_pixels: int
    ids: Mapping[str, int] | None = None
    """Ids of the images in the results of COCO, by name; None counts them from 1."""

    def __call__(self, item: tuple[int, Entry], prediction: Prediction) -> PredictedRow | FailedImage:
        """Return the rows and files of a prediction; `item` is the index of the image and its entry."""
        if prediction.probabilities is not None:
            columns = prediction.path, prediction.sha256, *_top_classes(prediction.probabilities, self.labels)
            return PredictedRow(columns)
        try:
            overlay = self._overlay(item, prediction) if self.overlay else ()
            row = self._detections(item, prediction) if prediction.mask is None else self._mask(item, prediction)
        except ImageError as error:  # it changed since it was read
            return FailedImage(prediction.path, error.reason)
        return replace(row, files=(*row.files, *overlay))

    def _mask(self, item: tuple[int, Entry], prediction: Prediction) -> PredictedRow:
        mask = prediction.mask
        assert mask is not None
        position, size = read_position(self.source, item[1]), (prediction.width, prediction.height)
        if position is not None and position.size == mask.shape:
            suffix, content = ".tif", encode_geotiff(mask, self.labels, position)
        else:
            suffix, content = ".png", encode_mask(mask, self.labels)
        name = f"{MASKS}/{self._name(item, suffix)}"
        shares = [f"{share:.6g}" for share in class_shares(mask, len(self.labels))]
        objects = tuple(segments(prediction.path, mask, self.labels)) if self.rle else ()
        return PredictedRow((prediction.path, prediction.sha256, name, *size, *shares), objects, ((name, content),))

    def _detections(self, item: tuple[int, Entry], prediction: Prediction) -> PredictedRow:
        detections = prediction.detections
        number = item[0] + 1 if self.ids is None else self.ids[item[1].name]
        assert detections is not None
        size, counts = (
            (prediction.width, prediction.height),
            np.bincount(detections.classes, minlength=len(self.labels)),
        )
        columns = (prediction.path, prediction.sha256, number, *size, len(detections), *counts.tolist())
        image = {"image_id": number, "file_name": prediction.path}
        return PredictedRow(columns, tuple(image | one for one in describe_detections(detections, self.labels)))

    def _overlay(self, item: tuple[int, Entry], prediction: Prediction) -> tuple[tuple[str, bytes]]:
        if prediction.detections is not None:
            drawn = draw_detections(self._picture(item[1], 1), prediction.detections, self.labels)
        else:
            assert prediction.mask is not None
            step = 1 if self.preprocessing.is_rgb else -(-max(prediction.mask.shape) // MAX_OVERLAY_SIDE)
            drawn = draw_overlay(self._picture(item[1], step), prediction.mask[::step, ::step], self.labels)
        return ((f"{OVERLAYS}/{self._name(item, '.jpg')}", drawn),)

    def _picture(self, entry: Entry, step: int) -> np.ndarray:
        """Return an upright image (H, W, 3) uint8; of other channels every `step`-th pixel of a picture of it."""
        if self.preprocessing.is_rgb:
            return decode(read_entry(self.source, entry), entry.name, self.max_pixels)[0]
        scene = Scene(self.source, entry, reader_of(self.preprocessing, self.max_pixels))
        return scene.picture(step, partial(rgb_picture, preprocessing=self.preprocessing))

    def _name(self, item: tuple[int, Entry], suffix: str) -> str:
        return output_name(item[1].name, suffix, self.repeated, item[0])


def table_header(task: Task, labels: tuple[Label, ...]) -> list[str]:
    """Return the columns of predictions.csv."""
    if task == "segment":
        return ["path", "sha256", "mask", "width", "height", *(f"share_{label.name}" for label in labels)]
    if task == "detect":
        counts = [f"count_{label.name}" for label in labels]
        return ["path", "sha256", "image_id", "width", "height", "detections", *counts]
    more = [f"{name}_{i}" for i in range(2, min(TOP, len(labels)) + 1) for name in ("label", "probability")]
    return ["path", "sha256", "label", "probability", *more]


def objects_file(task: Task, rle: bool) -> str | None:
    """Return the name of the file that holds the objects of all images; None if there is none."""
    return RESULTS if task == "detect" else RLE if rle else None


def describe_labels(task: Task, labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    """Return the labels by class number with their ids, names and colors, and for masks the value of their pixels."""
    described = [asdict(label) for label in labels]
    if task != "segment":
        return described
    return [{"pixel": int(v), **label} for v, label in zip(pixel_values(labels)[0], described, strict=True)]


def class_shares(mask: np.ndarray, classes: int) -> np.ndarray:
    """Return the share (K,) that each class has of the pixels of a mask that hold data."""
    rows = max(1, _COUNTED_PIXELS // mask.shape[1])  # bincount makes a copy of eight bytes a pixel
    bands = (mask[i : i + rows].ravel() for i in range(0, len(mask), rows))
    counts = np.stack([np.bincount(band, minlength=VOID + 1) for band in bands]).sum(axis=0)[:classes]
    return np.asarray(counts / max(1, counts.sum()))


def segments(path: str, mask: np.ndarray, labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    """Return the pixels of each class in a mask as an annotation of COCO, with `path` for the image."""
    annotations = []
    for number in np.unique(mask[mask != VOID]):
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
