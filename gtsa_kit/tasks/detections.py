"""Detections of one image: boxes in its pixels, and masks that are pasted from the small ones of a detector.

Prediction, the service and the scores of detectors call these functions, so that their results are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gtsa_kit.data.image_io import ImageError
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_spec import Label
from gtsa_kit.tasks.masks import resized_bands
from gtsa_kit.tasks.rle import encode_part

SHOWN_SCORE: Final = 0.5
"""Score from which detections are shown by default."""
MASK_THRESHOLD: Final = 0.5
"""Probability above which a pixel of a box belongs to the object."""


@dataclass(frozen=True)
class ImageDetections:
    """Objects that a detector detections in one image, the highest score first."""

    size: tuple[int, int]
    """Height and width of the upright image in pixels."""
    boxes: np.ndarray
    """Corners x0, y0, x1, y1 in pixels of the image, (N, 4) float32."""
    scores: np.ndarray
    """Probability of the class, (N,) float32."""
    classes: np.ndarray
    """Class numbers, (N,) int64."""
    masks: np.ndarray | None = None
    """Probability that a part of the box belongs to the object, (N, M, M) float32; None for boxes alone."""

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, kept: np.ndarray) -> "ImageDetections":
        """Return some of the detections, by their indices or as booleans."""
        masks = None if self.masks is None else self.masks[kept]
        return ImageDetections(self.size, self.boxes[kept], self.scores[kept], self.classes[kept], masks)

    def part(self, index: int) -> tuple[np.ndarray, int, int]:
        """Return the mask (h, w) of a detection around its box, boolean, and the column and row where it begins."""
        assert self.masks is not None, "the detector gives boxes alone"
        return paste_mask(self.masks[index], self.boxes[index], self.size)

    def mask(self, index: int) -> np.ndarray:
        """Return the mask (height, width) of a detection, boolean, at the size of the image."""
        part, x, y = self.part(index)
        whole = np.zeros(self.size, bool)
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        return whole

    def rle(self, index: int) -> dict[str, object]:
        """Return the mask of a detection in COCO's compressed run lengths, at the size of the image."""
        return encode_part(*self.part(index), self.size)


def to_detections(
    output: TaskOutput, input_size: tuple[int, int], size: tuple[int, int], threshold: float
) -> ImageDetections:
    """Return the detections of an image from the outputs of the model for its input.

    Args:
        output: Outputs of a detector for one image, without the batch axis.
        input_size: (height, width) of the input, which shows the whole image.
        size: (height, width) of the image.
        threshold: Lowest score; slots that are not used are left out in any case.

    Raises:
        ImageError: A number of the outputs is not finite.
    """
    boxes, scores = np.asarray(output.boxes, np.float32), np.asarray(output.scores, np.float32)
    arrays = [boxes, scores] if output.masks is None else [boxes, scores, output.masks]
    if not all(np.isfinite(values).all() for values in arrays):
        raise ImageError(Path("image"), "the model's detections are not finite (NaN or infinity)")
    (height, width), scale = size, np.array(size, np.float32) / np.array(input_size, np.float32)
    boxes = np.clip(boxes * np.tile(scale[::-1], 2), 0, np.array([width, height] * 2, np.float32))
    kept = np.flatnonzero((scores >= threshold) & (scores > 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    masks = None if output.masks is None else np.asarray(output.masks)[kept]
    return ImageDetections(size, boxes[kept], scores[kept], np.asarray(output.labels)[kept].astype(np.int64), masks)


def paste_mask(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Paste the small mask of a box into its image, as torchvision's `paste_masks_in_image` does.

    The mask gets a border of zeros, the box grows by as much, its corners are rounded towards zero, and the mask is
    resized (bilinear) to the pixels from one corner to the other.

    Args:
        mask: (M, M) float32 probabilities.
        box: x0, y0, x1, y1 in pixels.
        size: (height, width) of the image.

    Returns:
        The pixels above `MASK_THRESHOLD` (h, w), boolean, and the column and row of the image where they begin.
    """
    grown = (mask.shape[0] + 2) / np.float32(mask.shape[0])
    corners = np.asarray(box, np.float32).reshape(2, 2)
    center, half = (corners[1] + corners[0]) * np.float32(0.5), (corners[1] - corners[0]) * np.float32(0.5)
    (x0, y0), (x1, y1) = (center - half * grown).astype(int).tolist(), (center + half * grown).astype(int).tolist()
    height, width = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1 + 1, size[1]), min(y1 + 1, size[0])
    if left >= right or top >= bottom:
        return np.zeros((0, 0), bool), 0, 0
    part = np.zeros((bottom - top, right - left), bool)
    for first, last, band in resized_bands(np.pad(mask, 1)[None], (height, width)):
        begin, end = max(first, top - y0), min(last, bottom - y0)
        if begin < end:
            rows = band[0, begin - first : end - first, left - x0 : right - x0]
            part[begin + y0 - top : end + y0 - top] = (rows > MASK_THRESHOLD).numpy()
    return part, left, top


def describe_detections(
    detections: ImageDetections, labels: Sequence[Label], with_masks: bool = True
) -> list[dict[str, Any]]:
    """Return the detections as results of COCO, without the image: category_id, bbox, score and segmentation.

    `bbox` is x, y, width and height in pixels.
    """
    described = []
    for i in range(len(detections)):
        x0, y0, x1, y1 = map(float, detections.boxes[i])
        entry: dict[str, Any] = {
            "category_id": labels[detections.classes[i]].id,
            "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(float(detections.scores[i]), 6),
        }
        if detections.masks is not None and with_masks:
            entry["segmentation"] = detections.rle(i)
        described.append(entry)
    return described
