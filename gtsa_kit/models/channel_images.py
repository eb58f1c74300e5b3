"""Images of N channels for a model, read as its preprocessing says."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.config import ChannelsConfig
from gtsa_kit.data.channels import npy
from gtsa_kit.data.channels.image import ChannelImage, ChannelLayout
from gtsa_kit.data.channels.other import other_channels
from gtsa_kit.data.channels.read import read_channels
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.channels.value_range import ChannelRange
from gtsa_kit.data.decode import decode
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.formats import CHANNEL_SUFFIXES
from gtsa_kit.data.image_files import list_images
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, open_image, read_file
from gtsa_kit.models.preprocessing import InputImage, Preprocessing

MODEL_TAKES = "where the model takes"
"""Part of the reason of an image with other channels than a model takes, between what it has and what is needed."""


def reader_of(preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> ImageReader:
    """Return the reader of images for a model."""
    return ImageReader(channels_of(preprocessing), max_pixels, check_for_model)


def channels_of(preprocessing: Preprocessing) -> ChannelsConfig:
    """Return the settings of the channels that a model takes."""
    if preprocessing.is_rgb:
        return ChannelsConfig()
    samples, ends = preprocessing.samples, (0.0, 100.0)
    stated = {
        "count": len(preprocessing.mean),
        "dtype": samples.dtype,
        "colors": samples.colors,
        "percentiles": ends if samples.clip else None,
        "dicom_window": samples.dicom_window,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "low": samples.low,
        "high": samples.high,
    }
    return ChannelsConfig.model_validate(stated)


def channel_range(preprocessing: Preprocessing) -> ChannelRange | None:
    """Return the range of the samples that a model was trained with; None for 8-bit RGB."""
    samples = preprocessing.samples
    return None if preprocessing.is_rgb else ChannelRange.between(samples.low, samples.high, samples.colors)


def check_for_model(actual: ChannelLayout, required: ChannelLayout, path: Path) -> None:
    """Raise `ImageError` for an image of other channels or samples than a model takes."""
    if not actual.has_samples_of(required):
        raise ImageError(path, f"{actual}, {MODEL_TAKES} {required}")


def read_samples(
    content: bytes, name: str, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS, frame: int = 0
) -> tuple[np.ndarray, int]:
    """Read an image for a model.

    Args:
        content: Content of the file.
        name: Name for errors.
        preprocessing: Preprocessing of the model, which says what it takes.
        max_pixels: Limit of what is decoded.
        frame: Number of the frame in a file with several, from 0; files of 8-bit RGB give their first one.

    Returns:
        Upright pixels: (H, W, 3) uint8 of RGB, else samples (H, W, N) with the mean of the channel where there is no
        data; and the file's EXIF orientation.

    Raises:
        ImageError: The file can't be read, or holds other images than the model takes.
    """
    if preprocessing.is_rgb:
        if content.startswith(npy.MAGIC):
            return _rgb_array(content, Path(name), max_pixels), 1
        try:
            return decode(content, name, max_pixels)
        except ImageError as error:
            other = other_channels(content)
            raise (ImageError(error.path, f"{other}, {MODEL_TAKES} 8-bit RGB") if other else error) from error
    image = reader_of(preprocessing, max_pixels)(content, name, frame)
    return filled_samples(image, preprocessing), image.orientation


def _rgb_array(content: bytes, path: Path, max_pixels: int) -> np.ndarray:
    """Return an array of 8-bit RGB or gray in `.npy` as (H, W, 3) uint8."""

    def check(layout: ChannelLayout) -> None:
        if layout.dtype != "uint8" or layout.count not in (1, 3):
            raise ImageError(path, f"{layout}, {MODEL_TAKES} 8-bit RGB, (H, W, 3) of uint8")

    pixels = read_channels(content, path, max_pixels, check=check).pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def read_input(path: Path, preprocessing: Preprocessing) -> InputImage:
    """Read an image file for a model: an upright RGB image, or samples (H, W, N); raise `ImageError` if it can't be."""
    if preprocessing.is_rgb and path.suffix.lower() not in CHANNEL_SUFFIXES:
        return open_image(path)
    pixels, _ = read_samples(read_file(path), str(path), preprocessing)
    return Image.fromarray(pixels) if preprocessing.is_rgb else pixels


def filled_samples(image: ChannelImage, preprocessing: Preprocessing) -> np.ndarray:
    """Return the samples (H, W, N) of an image, with the mean of the channel where there is no data."""
    return reader_of(preprocessing).filled(image)


def sample_channels(where: Path, count: int, preprocessing: Preprocessing) -> tuple[list[np.ndarray], list[str]]:
    """Return up to `count` images (H, W, N), spread evenly over a source, and their names.

    Raises:
        ValueError: None of them can be read with the channels of the model.
    """
    images = list_images(str(where), channels=True)
    stride = max(1, len(images.entries) // count)
    entries = [*images.entries[::stride], *(one for i, one in enumerate(images.entries) if i % stride)]
    chosen = list(islice(_readable(images.source, entries, preprocessing), count))
    if not chosen:
        raise ValueError(
            f"no image in {where} can be read as {reader_of(preprocessing).layout}, which the model takes; name others"
        )
    return [pixels for _, pixels in chosen], [name for name, _ in chosen]


def _readable(
    source: Source, entries: Iterable[Entry], preprocessing: Preprocessing
) -> Iterator[tuple[str, np.ndarray]]:
    reader = reader_of(preprocessing)
    for entry in entries:
        with suppress(ImageError):
            yield entry.name, filled_samples(reader(read_entry(source, entry), entry.name), preprocessing)
