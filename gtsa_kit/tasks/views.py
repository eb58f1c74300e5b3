"""Versions of an image whose features are kept: the image, its mirror image, then crops, each with its label."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from gtsa_kit.data.samples import AUGMENT, derive_seed
from gtsa_kit.models.preprocessing import InputImage, image_size

CROPS = (0.5, 0.9)
"""Range of the sides of a crop, as a share of the image's."""


class View(NamedTuple):
    """Part of an image, by shares of its sides, and whether it is mirrored."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    mirrored: bool = False


def make_view(number: int, seed: int, index: int) -> View:
    """Return version `number` of image `index`: 0 is the image, 1 its mirror image, the others are random crops."""
    if number < 2:
        return View(mirrored=number == 1)
    rng = np.random.default_rng(derive_seed(seed, AUGMENT, index, number))
    side = rng.uniform(*CROPS)
    left, top = rng.uniform(0, 1 - side, 2)
    return View(left, top, left + side, top + side, bool(rng.integers(2)))


def pixel_box(view: View, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of a view in whole pixels of an image."""
    return int(view.left * width), int(view.top * height), int(view.right * width), int(view.bottom * height)


def apply_to_image(view: View, image: InputImage) -> InputImage:
    """Return the pixels of a view, of an RGB image or of samples (H, W, N)."""
    width, height = image_size(image)
    box = pixel_box(view, width, height)
    if isinstance(image, np.ndarray):
        samples = image[box[1] : box[3], box[0] : box[2]]
        return np.ascontiguousarray(samples[:, ::-1]) if view.mirrored else samples
    part = image if box == (0, 0, width, height) else image.crop(box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else part


def apply_to_labels(view: View, labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the labels (H, W) of a view, sampled at the centers of a grid of `size` (rows, columns)."""
    height, width = labels.shape
    rows = ((view.top + (np.arange(size[0]) + 0.5) / size[0] * (view.bottom - view.top)) * height).astype(int)
    columns = ((view.left + (np.arange(size[1]) + 0.5) / size[1] * (view.right - view.left)) * width).astype(int)
    if view.mirrored:
        columns = columns[::-1]
    sampled: np.ndarray = labels[np.minimum(rows, height - 1)[:, None], np.minimum(columns, width - 1)]
    return sampled
