"""Masks of objects as datasets store them, polygons or run lengths, in a few large arrays; drawn when they are used."""

from array import array
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Final

import numpy as np

from gtsa_kit.data.rle_text import check_counts, compress_counts, decode_counts, mask_of_counts

NONE: Final = 0
POLYGONS: Final = 1
RUNS: Final = 2


def mask_library() -> ModuleType:
    """Import the functions for COCO's masks.

    Raises:
        ValueError: They are not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ValueError(
            "masks of polygons need faster-coco-eval, which is not installed; pip install 'gtsa-kit[finetune]', or "
            "use boxes alone by --no-masks"
        ) from error
    module: ModuleType = mask
    return module


class SegmentationColumns:
    """Segmentations of objects while a dataset is read."""

    def __init__(self) -> None:
        self.kinds = bytearray()
        self.sizes = array("l")
        self.points = array("d")
        self.polygons = array("q", [0])
        self.polygon_rows = array("q", [0])
        self.text = bytearray()
        self.text_rows = array("q", [0])

    def add(self, value: Any) -> str:
        """Add the next object's segmentation as COCO writes it; return what is wrong with it, or "".

        Args:
            value: List of polygons [x, y, x, y, ...], {"size": [h, w], "counts": list or text}, or None.
        """
        points, polygons = len(self.points), len(self.polygons)
        kind, size, fault = NONE, (0, 0), ""
        try:
            if isinstance(value, dict):
                size = self._add_runs(value)
                kind = RUNS
            elif value:
                self._add_polygons(value)
                kind = POLYGONS
        except (ValueError, TypeError, OverflowError, KeyError, UnicodeError) as error:
            fault = str(error) if type(error) is ValueError else "a segmentation that is no polygons or run lengths"
            del self.points[points:], self.polygons[polygons:]
        self.kinds.append(kind)
        self.sizes.extend(size)
        self.polygon_rows.append(len(self.polygons) - 1)
        self.text_rows.append(len(self.text))
        return fault

    def _add_polygons(self, polygons: Any) -> None:
        for polygon in polygons:
            if type(polygon) is list and (len(polygon) < 6 or len(polygon) % 2):
                raise ValueError("a polygon of fewer than 3 points, or with an odd number of values")
            self.points.fromlist(polygon)
            self.polygons.append(len(self.points))

    def _add_runs(self, value: dict[str, Any]) -> tuple[int, int]:
        size = value["size"]
        if len(size) != 2:
            raise TypeError("a size has two numbers")
        height, width = size
        counts = value["counts"]
        text = (counts if isinstance(counts, str) else compress_counts(counts)).encode("ascii")
        check_counts(decode_counts(text), (height, width))
        self.text += text
        return height, width

    def finish(self) -> "Segmentations":
        """Return the segmentations of all objects."""
        return Segmentations(
            np.frombuffer(bytes(self.kinds), np.uint8),
            np.array(self.sizes, np.int32).reshape(-1, 2),
            np.array(self.points).reshape(-1, 2),
            np.array(self.polygons) // 2,
            np.array(self.polygon_rows),
            bytes(self.text),
            np.array(self.text_rows),
        )


@dataclass(frozen=True)
class Segmentations:
    """Segmentations of M objects."""

    kinds: np.ndarray
    """`NONE`, `POLYGONS` or `RUNS` of each object, (M,) uint8."""
    sizes: np.ndarray
    """Height and width of the image that run lengths are for, (M, 2) int32; 0 for the others."""
    points: np.ndarray
    """Points x, y of all polygons, one after the other, (P, 2) float64."""
    polygons: np.ndarray
    """Bounds of the polygons in `points`, int64."""
    polygon_rows: np.ndarray
    """Bounds of the objects in `polygons`, (M + 1,) int64."""
    text: bytes
    """Compressed run lengths, one after the other."""
    text_rows: np.ndarray
    """Bounds of the objects in `text`, (M + 1,) int64."""

    def runs(self, row: int, height: int, width: int) -> dict[str, Any]:
        """Return the mask of an object as {"size": [height, width], "counts": bytes}, as pycocotools has it.

        Several polygons are one mask. An object without a segmentation has an empty one.
        """
        if self.kinds[row] == RUNS:
            return {"size": [height, width], "counts": self.text[self.text_rows[row] : self.text_rows[row + 1]]}
        first, last = self.polygon_rows[row : row + 2]
        outlines = [self.points[self.polygons[i] : self.polygons[i + 1]].ravel() for i in range(first, last)]
        if not outlines:
            return {"size": [height, width], "counts": compress_counts([height * width]).encode()}
        library = mask_library()
        merged: dict[str, Any] = library.merge(library.frPyObjects(outlines, height, width))
        return merged

    def mask(self, row: int, height: int, width: int) -> np.ndarray:
        """Return the mask (H, W) bool of an object."""
        return mask_of_counts(decode_counts(self.runs(row, height, width)["counts"]), (height, width))

    def scale(self, factors: np.ndarray) -> "Segmentations":
        """Return these with the x and y of each object's polygons multiplied by its factors (M, 2)."""
        points = np.diff(self.polygons[self.polygon_rows])
        return replace(self, points=self.points * np.repeat(factors, points, axis=0))

    def polygon_bounds(self) -> np.ndarray:
        """Return the smallest x and y and the largest x and y of each object's polygons, (M, 4) float64; else NaN."""
        result = np.full((len(self.kinds), 4), np.nan)
        rows = np.flatnonzero(self.kinds == POLYGONS)
        if len(rows):
            edges = self.polygons[np.stack([self.polygon_rows[rows], self.polygon_rows[rows + 1]], 1).ravel()]
            points = np.append(self.points, [[np.nan, np.nan]], axis=0)
            result[rows, :2] = np.minimum.reduceat(points, edges)[::2]
            result[rows, 2:] = np.maximum.reduceat(points, edges)[::2]
        return result

    def run_bounds(self, row: int) -> tuple[int, int, int, int] | None:
        """Return the smallest x and y and the largest x and y of an object's run lengths, None if it has no pixel."""
        y, x = np.nonzero(self.mask(row, *self.sizes[row].tolist()))
        return (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1) if len(x) else None
