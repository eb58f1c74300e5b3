"""Images of N channels: their layout, header and pixels, and the limits that hold before pixels are decoded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

import numpy as np

from gtsa_kit.data.image_io import ImageError

SampleType = Literal["uint8", "uint16", "float32"]
"""Types of samples; others are converted where that changes no value."""

BYTES_PER_PIXEL: Final = 3
"""Bytes of a pixel of 8-bit RGB; a limit of pixels is one of three times as many bytes for other images."""
MAX_EXACT: Final = 2**24
"""Largest whole number up to which float32 holds all of them."""


@dataclass(frozen=True)
class ChannelLayout:
    """Number of channels and type of samples."""

    count: int
    dtype: SampleType
    colors: bool = False
    """True if the three channels are red, green and blue."""

    def __str__(self) -> str:
        return f"{self.count} channel{'s' * (self.count != 1)} of {self.dtype}"

    def has_samples_of(self, other: "ChannelLayout") -> bool:
        """Return whether another layout has as many channels and the same type of samples."""
        return (self.count, self.dtype) == (other.count, other.dtype)


class Window(NamedTuple):
    """Rectangle of an image in pixels; the ends are exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class ChannelHeader:
    """Shape of an image, read without decoding pixels."""

    layout: ChannelLayout
    height: int
    """Height of the stored image in pixels, before its orientation is applied."""
    width: int
    frames: int = 1
    """Number of images in the file, such as slices of a volume or moments of a film."""

    @property
    def nbytes(self) -> int:
        """Bytes of one frame when decoded."""
        return self.height * self.width * self.layout.count * np.dtype(self.layout.dtype).itemsize


@dataclass(frozen=True)
class ChannelImage:
    """Decoded image of N channels."""

    pixels: np.ndarray
    """Upright samples (H, W, N) of the type of the layout."""
    layout: ChannelLayout
    valid: np.ndarray | None = None
    """Mask (H, W) bool, False where a pixel holds no data; None if all hold data."""
    orientation: int = 1
    """EXIF orientation of the file, 1 to 8, which the samples are rotated by."""


def check_limits(header: ChannelHeader, path: Path, max_pixels: int) -> None:
    """Raise `ImageError` for a frame of more than `max_pixels`, or of more bytes than so many pixels of RGB have."""
    megapixels, limit = header.height * header.width / 1e6, max_pixels / 1e6
    size = f"{header.width} x {header.height}"
    if header.height * header.width > max_pixels:
        raise ImageError(path, f"{size} is {megapixels:.0f} megapixels, above the limit of {limit:.0f}")
    if header.nbytes > BYTES_PER_PIXEL * max_pixels:
        raise ImageError(
            path,
            f"{size} of {header.layout} is {header.nbytes / 1e6:.0f} MB, above the limit of "
            f"{BYTES_PER_PIXEL * limit:.0f}",
        )


def sample_type(dtype: np.dtype) -> SampleType:
    """Return the type that samples of a type in a file are read as.

    Raises:
        ValueError: Samples of this type are no numbers that float32 holds.
    """
    if dtype.hasobject or dtype.kind not in "uif":
        raise ValueError(f"samples of type {dtype}, which are not read; store uint8, uint16 or float32")
    return cast(SampleType, dtype.name) if dtype.name in ("uint8", "uint16") else "float32"


def to_samples(values: np.ndarray) -> np.ndarray:
    """Convert values to the type of `sample_type`, in the byte order of the machine.

    Raises:
        ValueError: A whole number is too large for float32.
    """
    target = sample_type(values.dtype)
    if target == "float32" and values.dtype.kind in "ui" and values.dtype.itemsize > 2 and values.size:
        low, high = int(values.min()), int(values.max())
        if max(-low, high) > MAX_EXACT:
            raise ValueError(
                f"samples of {values.dtype.name} from {low} to {high}, which float32 does not all hold; store float32"
            )
    with np.errstate(over="ignore"):  # a value that float32 can't hold becomes infinite, which is refused later
        return np.ascontiguousarray(values, dtype=target)


def make_image(pixels: np.ndarray, colors: bool, valid: np.ndarray | None = None, orientation: int = 1) -> ChannelImage:
    """Return an image of (H, W, N) values of any type, after a check that every pixel with data is finite.

    Raises:
        ValueError: A sample is NaN or infinite where the file says that there is data.
    """
    pixels = to_samples(pixels)
    valid = None if valid is None or valid.all() else valid
    if pixels.dtype.kind == "f":
        broken = ~np.isfinite(pixels).all(axis=-1)
        count = int((broken if valid is None else broken & valid).sum())
        if count:
            raise ValueError(
                f"{count} of {broken.size} pixels are NaN or infinite; mark them as nodata in the file, or fill them"
            )
    layout = ChannelLayout(pixels.shape[-1], sample_type(pixels.dtype), colors and pixels.shape[-1] == 3)
    return ChannelImage(pixels, layout, valid, orientation)
