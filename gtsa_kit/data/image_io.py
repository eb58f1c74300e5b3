"""Finding, opening and checking images: the only place that meets a broken file.

Everything downstream sees upright 8-bit RGB, or a `ImageError` that says what is wrong with one file.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow may try, whatever the file is called. Formats that run other programs (EPS) stay out. Phones' MPO opens as
# JPEG: it has no opener of its own, and naming it here would be a KeyError for every file that is no JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")

MAX_PIXELS = 178_000_000
"""Just under Pillow's own bomb guard; about 0.5 GB once decoded."""

# Pillow's decoders have no common error class: on mutated files each of these was seen or is documented.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# EXIF orientation -> what makes the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """One file that can't be used; `reason` fits on a line."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        """Cross process borders whole: the default would call the class with the message alone."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded file."""

    image: Image.Image
    """Upright 8-bit RGB."""
    orientation: int
    """EXIF orientation of the file, 1 to 8: how the pixels that it stores were turned."""


def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to upright 8-bit RGB.

    16-bit samples keep their high byte, transparency is laid over white, of an animation the first frame is taken.

    Raises:
        ImageError: Missing, unreadable, no image, damaged, or more than `max_pixels`; the size is read from the
            header, before any pixel is decoded.
    """
    with _broken_as(path):
        _check_file(path)
        with open(path, "rb") as file:
            return _decode(file, path, max_pixels).image


def read_file(path: Path) -> bytes:
    """The content of an image's file; `ImageError` if it is missing, unreadable, empty, or no file."""
    with _broken_as(path):
        _check_file(path)
        return path.read_bytes()


def _check_file(path: Path) -> None:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # opening a named pipe would wait for ever
        raise ImageError(path, "not a regular file")
    if about.st_size == 0:
        raise ImageError(path, "empty file")


def open_mask(path: Path, colors: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a mask as its file stores it.

    Returns:
        (H, W) of the indices of a palette or of gray values, or (H, W, 3) uint8 of a file in color or where `colors`
        are asked for; transparency is passed over.

    Raises:
        ImageError: As `open_image`, or its samples are no whole numbers.
    """
    with _broken_as(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(path, "not a regular file")
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(path, _too_large(image.width, image.height, max_pixels))
            if image.mode == "F":
                raise ImageError(path, "floating-point samples, where a mask has whole numbers")
            if colors or not (image.mode in ("1", "L", "LA", "P") or image.mode.startswith("I")):
                return np.asarray(image.convert("RGB"))
            return np.asarray(image.convert("L") if image.mode == "LA" else image).astype(np.int32)


def open_bytes(content: bytes, path: Path = Path("image"), max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the content of a file as `open_image` does; `path` is what the error calls it."""
    return decode_image(content, path, max_pixels).image


def decode_image(content: bytes, path: Path = Path("image"), max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the content of a file, and say how it was turned.

    Raises:
        ImageError: As `open_image`.
    """
    with _broken_as(path):
        if not content:
            raise ImageError(path, "empty file")
        return _decode(io.BytesIO(content), path, max_pixels)


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is decoded."""

    kind: str
    """Pillow's name of the format."""
    mode: str
    width: int
    height: int
    """As stored."""
    orientation: int


def read_header(content: bytes, path: Path = Path("image"), max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a file's content; `ImageError` as `open_image`, as far as a header can tell."""
    with _broken_as(path):
        if not content:
            raise ImageError(path, "empty file")
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(path, _too_large(image.width, image.height, max_pixels))
            return Header(image.format or "", image.mode, image.width, image.height, _orientation(image))


@contextmanager
def _broken_as(path: Path) -> Iterator[None]:
    """Whatever reading and decoding raise, as a `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(path, _reason(error)) from error


def _decode(file: IO[bytes], path: Path, max_pixels: int) -> DecodedImage:
    # By an open file: raw TIFFs that Pillow opens by name are memory-mapped, with width and height mixed up when they
    # lie on their side, and a mapped file that shrinks meanwhile kills the process.
    with Image.open(file, formats=_FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise ImageError(path, _too_large(image.width, image.height, max_pixels))
        before = _orientation(image)
        image.load()
        after = _orientation(image)  # TIFF turns itself while loading and drops the tag; PNG may bring it only then
        return DecodedImage(_upright(_to_rgb(image), after), before if image.format == "TIFF" else after)


def _upright(rgb: Image.Image, orientation: int) -> Image.Image:
    rotation = _UPRIGHT.get(orientation)
    return rgb if rotation is None else rgb.transpose(rotation)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation as far as it is known by now."""
    try:
        said = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        return said if said in _UPRIGHT else 1
    except _DECODER_ERRORS:  # damaged metadata beside sound pixels: the image is usable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        paper = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(paper, over).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Whole range of the sample type onto 0 to 255; Pillow's own conversion would clip everything above 255."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high < 2**32):  # also false for NaN
        raise ValueError(f"samples from {low:g} to {high:g} have no known range; store 8 or 16 bits")
    if values.dtype.kind == "f":
        scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
        return np.asarray(np.clip(values * scale + 0.5, 0, 255), dtype=np.uint8)
    if values.dtype.itemsize == 2 or high < 2**16:
        return np.asarray(values.astype(np.uint16) >> 8, dtype=np.uint8)
    return np.asarray(values.astype(np.uint32) >> 24, dtype=np.uint8)


def _too_large(width: int, height: int, max_pixels: int) -> str:
    return f"{width} x {height} is {width * height / 1e6:.0f} megapixels, above the limit of {max_pixels / 1e6:.0f}"


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged beyond recognition"
    if isinstance(error, Image.DecompressionBombError):
        return f"larger than the limit: {error}".split(",")[0]
    if isinstance(error, MemoryError):
        return "does not fit in memory"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error) or type(error).__name__).splitlines()[0][:200]
