"""Images of a program, in place of those of a source: paths, images of Pillow and arrays."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_io import ImageError, image_errors, read_file
from gtsa_kit.data.rgb import apply_orientation, exif_orientation, to_rgb
from gtsa_kit.embedding.preprocess import PreparedImage, Preprocessor
from gtsa_kit.embedding.rows import FailedImage

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray
"""Path of an image file, image of Pillow, or array (H, W, 3) or (H, W) uint8."""


def name_images(images: Image.Image | np.ndarray | Iterable[ImageLike]) -> Iterator[tuple[str, ImageLike]]:
    """Yield the images with their names: a path is its own name, other images are numbered from 0.

    Raises:
        ValueError: An item is none of these; raised when it is reached.
    """
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    for index, image in enumerate(images):
        if isinstance(image, np.ndarray):
            _check_array(image, index)
        elif not isinstance(image, str | Path | Image.Image):
            kinds = "paths, PIL images or arrays (H, W, 3) uint8"
            raise ValueError(f"image {index} is of type {type(image).__name__}; give {kinds}")
        yield (str(image) if isinstance(image, str | Path) else str(index)), image


def load_item(item: tuple[str, ImageLike], preprocessor: Preprocessor) -> PreparedImage | FailedImage:
    """Read, decode and prepare one image."""
    name, image = item
    try:
        if isinstance(image, str | Path):
            return preprocessor(name, read_file(Path(image)))
        return preprocessor.prepare(name, *read_item(item, preprocessor.max_pixels))
    except ImageError as error:
        return FailedImage(name, error.reason)


def read_item(item: tuple[str, ImageLike], max_pixels: int) -> tuple[np.ndarray, int]:
    """Return upright pixels (H, W, 3) uint8 of one image, and the EXIF orientation of its file.

    Raises:
        ImageError: It is a path, and the file can't be used; or an image of Pillow that can't be decoded.
    """
    name, image = item
    if isinstance(image, str | Path):
        return decode(read_file(Path(image)), name, max_pixels)
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)), 1
    with image_errors(Path(name)):
        image.load()
        orientation = exif_orientation(image)
        return np.asarray(apply_orientation(to_rgb(image), orientation)), orientation


def _check_array(image: np.ndarray, index: int) -> None:
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] != 3)
        or not image.size
    ):
        raise ValueError(
            f"image {index} is an array {image.shape} of {image.dtype}; give (H, W, 3) or (H, W) uint8, 0 to 255"
        )
