"""Report and validation part of checked labeled images, whatever their labels are."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gtsa_kit.data.instance_report import PreparedInstances
from gtsa_kit.data.label_report import LabelReport, PreparedClasses, PreparedMasks


class PreparedData:
    """Base of images with masks, with classes and with objects."""

    prepared: PreparedMasks | PreparedClasses | PreparedInstances

    @property
    def report(self) -> LabelReport:
        """Counts and warnings."""
        return self.prepared.report

    @property
    def validation(self) -> np.ndarray:
        """Validation images, (N,) bool."""
        return self.prepared.validation


class Sized(Protocol):
    """Something with a width and a height in pixels."""

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def height(self) -> int:
        """Height in pixels."""


def median_short_side(images: Sequence[Sized]) -> int:
    """Return the median short side of images in pixels."""
    return round(float(np.median([min(image.width, image.height) for image in images])))
