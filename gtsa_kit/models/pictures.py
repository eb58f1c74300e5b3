"""Pictures of images of any channels, for people and browsers: RGB as it is, of other channels three or one."""

from typing import Final

import numpy as np
from PIL import Image

from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.models.channel_images import read_samples
from gtsa_kit.models.preprocessing import InputImage, Preprocessing

SHOWN_DEVIATIONS: Final = 2.0
"""Standard deviations from the mean of a channel at which a picture of it is black or white."""


def parse_display_channels(text: str | None, preprocessing: Preprocessing) -> tuple[int, ...]:
    """Parse the channels to show as red, green and blue, or one to show as gray, counted from 1: "4,3,2".

    Returns:
        Their indices, from 0; without a text the first three, or the first of one or two. () for 8-bit RGB.

    Raises:
        ValueError: It is not one or three numbers of channels of the model, or the model takes RGB.
    """
    count = len(preprocessing.mean)
    if text is None:
        return () if preprocessing.is_rgb else tuple(range(3)) if count >= 3 else (0,)
    if preprocessing.is_rgb:
        raise ValueError("channels are shown as they are where images are 8-bit RGB; omit --show")
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError(f"--show takes one channel or three, counted from 1, got {text[:40]!r}; 4,3,2")
    display_channels = tuple(int(part[:9]) - 1 for part in parts)
    if not all(0 <= index < count for index in display_channels):
        raise ValueError(f"--show names channels 1 to {count}, got {text[:40]!r}")
    return display_channels


def rgb_picture(pixels: np.ndarray, preprocessing: Preprocessing, display_channels: tuple[int, ...] = ()) -> np.ndarray:
    """Return a picture (..., 3) uint8 of samples (..., N): 8-bit RGB as it is, else the channels to display.

    A channel is black to white from two standard deviations below its mean to two above, as measured in training.

    Args:
        pixels: Samples.
        preprocessing: Preprocessing of the model that takes them.
        display_channels: Indices of one channel or of three; () shows the first ones.
    """
    if preprocessing.is_rgb:
        return pixels
    chosen = list(display_channels or parse_display_channels(None, preprocessing))
    chosen *= 3 // len(chosen)
    mean, std = (np.asarray(values, np.float32)[chosen] for values in (preprocessing.mean, preprocessing.std))
    scaled = pixels[..., chosen].astype(np.float32) / np.float32(preprocessing.scale)
    unit = (scaled - mean) / std / (2 * SHOWN_DEVIATIONS) + 0.5
    return np.asarray((255 * unit.clip(0, 1)).round(), np.uint8)


def to_picture(image: InputImage, preprocessing: Preprocessing) -> Image.Image:
    """Return a picture of an image: of other channels than 8-bit RGB that of `rgb_picture`."""
    return Image.fromarray(rgb_picture(image, preprocessing)) if isinstance(image, np.ndarray) else image


def read_picture(
    content: bytes,
    name: str,
    preprocessing: Preprocessing,
    display_channels: tuple[int, ...] = (),
    max_pixels: int = MAX_PIXELS,
    frame: int = 0,
) -> Image.Image:
    """Return the upright picture of an image file for a model.

    Raises:
        ImageError: The file can't be read, or holds other images than the model takes.
    """
    pixels, _ = read_samples(content, name, preprocessing, max_pixels, frame)
    return Image.fromarray(rgb_picture(pixels, preprocessing, display_channels))
