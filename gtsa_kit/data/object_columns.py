"""Objects of a dataset while it is read: columns, not a Python object each."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gtsa_kit.data.segmentations import SegmentationColumns, Segmentations

NAN = float("nan")
NO_BOX = (NAN, NAN, NAN, NAN)
"""Box of an object that has none: it gets that of its segmentation."""


class ObjectTable(NamedTuple):
    """M objects as they were read."""

    images: np.ndarray
    """Numbers of their images, (M,) int64; -1 for none."""
    classes: np.ndarray
    """Class numbers, (M,) int64; -1 for none."""
    boxes: np.ndarray
    """x, y, width, height in pixels, (M, 4) float64."""
    areas: np.ndarray
    """Areas that are stated, (M,) float64; else NaN."""
    crowd: np.ndarray
    """Regions of several objects, (M,) bool."""
    segmentations: Segmentations


class ObjectColumns:
    """Objects in the order in which they are read, one row each."""

    def __init__(self, masks: bool) -> None:
        """Start without objects; without `masks`, segmentations only give boxes to objects that have none."""
        self.masks = masks
        self.images = array("q")
        """Number of the image of each object, -1 for none."""
        self.classes = array("q")
        """Class number of each object."""
        self.boxes = array("d")
        """Boxes x, y, width, height in pixels, one after the other."""
        self.areas = array("d")
        self.crowd = bytearray()
        self.segmentations = SegmentationColumns()
        self.faults: dict[int, str] = {}
        """Reasons why rows can't be used."""
        self._labels: list[object] = []
        self._sections: list[tuple[int, str]] = [(0, "")]

    def __len__(self) -> int:
        return len(self.images)

    def begin(self, section: str) -> None:
        """Name the file of the following objects, for messages, such as `a.txt, line`."""
        self._sections.append((len(self), section))

    def add(
        self,
        label: object,
        image: int,
        class_number: int,
        box: Sequence[float],
        segmentation: Any = None,
        crowd: bool = False,
        area: float = NAN,
        fault: str = "",
    ) -> int:
        """Add an object and return its row.

        Args:
            label: Number or name of the object in its section.
            image: Number of its image.
            class_number: Its class.
            box: x, y, width, height, or `NO_BOX`.
            segmentation: As COCO has it; None for none.
            crowd: Whether it is a region of several objects.
            area: Area in square pixels, if stated.
            fault: Reason why it can't be used.
        """
        row = len(self)
        self._labels.append(label)
        self.images.append(image)
        self.classes.append(class_number)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowd.append(crowd)
        used = not fault and (self.masks or box is NO_BOX)
        wrong = self.segmentations.add(segmentation if used else None)
        if fault or wrong:
            self.faults[row] = fault or wrong
        return row

    def location(self, row: int) -> str:
        """Return where an object is written, for messages."""
        section = self._sections[bisect_right(self._sections, row, key=lambda item: item[0]) - 1][1]
        return f"{section} {self._labels[row]}"

    def finish(self) -> ObjectTable:
        """Return all objects."""
        return ObjectTable(
            np.array(self.images, np.int64),
            np.array(self.classes, np.int64),
            np.array(self.boxes).reshape(-1, 4),
            np.array(self.areas),
            np.frombuffer(bytes(self.crowd), bool),
            self.segmentations.finish(),
        )
