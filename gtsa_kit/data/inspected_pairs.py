"""Inspection of pairs of images and masks: both are decoded once, and what does not fit each other is skipped."""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.image_io import ImageError, decode_image, read_file
from gtsa_kit.data.label_map import MaskOptions, read_mask_values
from gtsa_kit.data.mask_pairs import Candidate
from gtsa_kit.data.skipped import SkippedImage
from gtsa_kit.progress import Note


@dataclass(frozen=True)
class ImageMaskPair:
    """An image and its mask, both readable and of the same size."""

    name: str
    """Path of the image relative to its folder, prefixed by the split if there is one."""
    image: Path
    mask: Path
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    split: str | None
    """`train`, `val`, or None where the dataset has no split."""
    values: np.ndarray = field(compare=False, repr=False)
    """Values of the mask's pixels that hold data, (V,) int32, ascending."""
    value_counts: np.ndarray = field(compare=False, repr=False)
    """Number of pixels of each of `values`, (V,) int64."""
    nodata: bytes = field(default=b"", repr=False)
    """Pixels of the upright image without data, see `area_of`; empty if there are none."""
    mask_nodata: int | None = None
    """Value of the mask that marks pixels without data, and is no class."""
    mask_orientation: int = 1
    """EXIF orientation of the image if the mask has none of its own and was drawn on the stored pixels; else 1."""


_Fit = Literal["either", "upright", "stored"]


@dataclass(frozen=True)
class Inspected:
    """A decoded pair: its values, and what is known of the orientation of its mask."""

    pair: ImageMaskPair
    in_color: bool
    fits: _Fit | None
    """Orientation of the pixels of a mask without a tag of its own beside an image with one, by its size."""
    orientation: int
    """EXIF orientation of the image."""


def inspect_pair(candidate: Candidate, options: MaskOptions, reader: ImageReader) -> Inspected | SkippedImage:
    """Decode a pair; a mask has the size of the upright image, or that of the stored one if it lacks a tag.

    Args:
        candidate: The files.
        options: Meaning of the values of masks; a value that it names is a class, even if a file says that it is none.
        reader: Reader of the image.
    """
    split, image, mask, name = candidate
    try:
        (width, height), orientation, valid = _decode(image, reader)
        values, in_color, mask_orientation, nodata = read_mask_values(mask, options.in_color)
    except ImageError as error:
        return SkippedImage(name, error.reason if error.path == image else f"its mask: {error.reason}")
    sizes: dict[_Fit, tuple[int, int]] = {
        "upright": (height, width),
        "stored": (width, height) if orientation > 4 else (height, width),
    }
    if mask_orientation > 1 or orientation == 1:
        del sizes["stored"]
    matches = [key for key, size in sizes.items() if size == values.shape]
    if not matches:
        return SkippedImage(name, f"its mask is {values.shape[1]} x {values.shape[0]}, the image {width} x {height}")
    fits: _Fit | None = None
    if len(sizes) > 1:
        fits = "either" if len(matches) > 1 else matches[0]
    nodata = None if nodata in options.names else nodata
    counts = np.unique(_with_data(values, valid, nodata), return_counts=True)
    area = b"" if valid is None else _compressed(~valid)
    pair = ImageMaskPair(name, image, mask, width, height, split, *counts, area, nodata)
    return Inspected(pair, in_color, fits, orientation)


def area_of(pair: ImageMaskPair) -> np.ndarray | None:
    """Return the pixels (H, W) bool of the upright image that hold no data; None if all do."""
    if not pair.nodata:
        return None
    bits = np.frombuffer(zlib.decompress(pair.nodata), np.uint8)
    return np.unpackbits(bits, count=pair.height * pair.width).astype(bool).reshape(pair.height, pair.width)


def _compressed(area: np.ndarray) -> bytes:
    """Return (H, W) bool in a few kilobytes: the areas of all images of a dataset are in memory."""
    return zlib.compress(np.packbits(area).tobytes(), 1)


def _decode(image: Path, reader: ImageReader) -> tuple[tuple[int, int], int, np.ndarray | None]:
    """Decode an image; return the (width, height) of the upright one, the file's orientation, and where it has data."""
    content = read_file(image)
    if reader.channels.is_rgb:
        decoded = decode_image(content, image)
        return decoded.image.size, decoded.orientation, None
    read = reader(content, str(image))
    return (read.pixels.shape[1], read.pixels.shape[0]), 1, read.valid


def _with_data(values: np.ndarray, valid: np.ndarray | None, nodata: int | None) -> np.ndarray:
    """Return the values of a mask where the image has data, and the mask too."""
    values = values if valid is None else values[valid]
    return values if nodata is None else values[values != nodata]


def orient_masks(inspected: Sequence[Inspected]) -> list[ImageMaskPair]:
    """Return the pairs, with the rotation that masks of stored pixels need; say where nothing shows which they are.

    A mask without an orientation of its own was drawn on the upright image, as most programs show it, or on the pixels
    as they are stored. Its size decides where the sides are exchanged. The other masks follow those that are decided.
    """
    decided = {item.fits for item in inspected}
    default = "stored" if "stored" in decided and "upright" not in decided else "upright"
    unclear = [item.pair.name for item in inspected if item.fits == "either"]
    if unclear and not decided & {"stored", "upright"}:
        warnings.warn(
            f"{len(unclear)} images have an EXIF orientation and their masks have none (first {unclear[0]}); the masks "
            "are taken as drawn on the upright images",
            Note,
            stacklevel=3,
        )
    pairs = []
    for item in inspected:
        stored = (default if item.fits == "either" else item.fits) == "stored"
        pairs.append(replace(item.pair, mask_orientation=item.orientation) if stored else item.pair)
    return pairs
