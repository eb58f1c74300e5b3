"""Reading and decoding of image files to upright 8-bit RGB; every failure is an `ImageError` with a reason."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gtsa_kit.data.formats import describe_unidentified, pillow_formats
from gtsa_kit.data.rgb import DECODER_ERRORS, apply_orientation, exif_orientation, to_rgb
from gtsa_kit.data.tiff import check_tiff, nodata_value

MAX_PIXELS = 178_000_000
"""Default limit of pixels in an image: just below Pillow's limit for decompression bombs, 0.5 GB when decoded."""

MAX_FILE_BYTES = 2**30
"""Limit of the size of a file in bytes; a larger one is not read into memory."""


class ImageError(ValueError):
    """Raised for a file that can't be used as an image; `reason` fits on one line."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        """Pickle both arguments; by default an exception is rebuilt from its message alone."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image and the orientation of its file."""

    image: Image.Image
    """Upright 8-bit RGB."""
    orientation: int
    """EXIF orientation of the file, 1 to 8."""


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image file, read without decoding pixels."""

    format: str
    """Pillow's name of the format."""
    mode: str
    """Pillow's name of the pixel format."""
    width: int
    """Width of the stored image, before its orientation is applied."""
    height: int
    """Height of the stored image, before its orientation is applied."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where it is stored behind the pixels, as a PNG's may be."""


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to upright 8-bit RGB.

    16-bit samples keep their high byte, transparent images are composited over white, and an animation gives its first
    frame.

    Raises:
        ImageError: The file is missing, unreadable, no image, damaged, or larger than `max_pixels`; the size is read
            from the header, before any pixel is decoded.
    """
    path = Path(path)
    with image_errors(path):
        check_file(path)
        with open(path, "rb") as file:
            return _decode_file(file, path, max_pixels).image


def read_file(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        ImageError: The file is missing, unreadable, empty, not a regular file, or larger than `MAX_FILE_BYTES`.
    """
    with image_errors(path):
        check_file_size(check_file(path), path)
        return path.read_bytes()


def check_file(path: Path) -> int:
    """Return the size in bytes of a regular file that is not empty; raise `ImageError` for another."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block
        raise ImageError(path, "not a regular file")
    if status.st_size == 0:
        raise ImageError(path, "empty file")
    return status.st_size


def check_file_size(size: int, path: Path) -> None:
    """Raise `ImageError` for a file of more than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        raise ImageError(path, f"{size / 2**30:.1f} GiB, above the limit of {MAX_FILE_BYTES // 2**30} GiB a file")


def open_mask(
    path: str | Path, colors: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, int, int | None]:
    """Decode a segmentation mask without changing its values.

    Args:
        path: Image file.
        colors: Return colors even where the file stores palette indices or gray values.
        max_pixels: Limit of the size in pixels.

    Returns:
        (H, W) int32 palette indices or gray values, or (H, W, 3) uint8 colors, upright, transparency ignored; the EXIF
        orientation of the file, 1 to 8; and the value of pixels without data that a GeoTIFF states, else None.

    Raises:
        ImageError: As for `open_image`, or the samples are floating-point.
    """
    path = Path(path)
    with image_errors(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(path, "not a regular file")
        with open(path, "rb") as file, Image.open(file, formats=pillow_formats()) as image:
            _check_pixels(image, path, max_pixels)
            if _is_lossy(image, file):
                raise ImageError(
                    path, f"a mask of lossy {image.format}, whose values are not those that were saved, use PNG"
                )
            before_loading = exif_orientation(image) if image.format == "TIFF" else None
            gray_step, nodata = _gray_step(image), nodata_value(image)
            image.load()
            if image.mode == "F":
                raise ImageError(path, "floating-point samples, where a mask has whole numbers")
            orientation = exif_orientation(image)
            upright = apply_orientation(image, orientation)  # loading has rotated a TIFF already
            if colors or not (upright.mode in ("1", "L", "LA", "P") or upright.mode.startswith("I")):
                nodata = None if upright.mode == "P" else nodata  # an index, and these are its colors
                return np.asarray(upright.convert("RGB")), before_loading or orientation, nodata
            values = np.asarray(upright.convert("L") if upright.mode == "LA" else upright).astype(np.int32)
            return values // gray_step, before_loading or orientation, nodata


def open_bytes(content: bytes, path: Path = Path("image"), max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the content of an image file as `open_image` does; errors name `path`."""
    return decode_image(content, path, max_pixels).image


def decode_image(content: bytes, path: Path = Path("image"), max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the content of an image file with Pillow.

    Raises:
        ImageError: As for `open_image`.
    """
    with image_errors(path):
        if not content:
            raise ImageError(path, "empty file")
        return _decode_file(io.BytesIO(content), path, max_pixels)


def read_header(content: bytes | IO[bytes], path: Path = Path("image"), max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Return the header of an image file's content, or of an open file, of which little is read.

    Raises:
        ImageError: As for `open_image`, as far as the header shows it.
    """
    with image_errors(path):
        if not content:
            raise ImageError(path, "empty file")
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(file, formats=pillow_formats()) as image:
            _check_pixels(image, path, max_pixels)
            return ImageHeader(image.format or "", image.mode, image.width, image.height, exif_orientation(image))


@contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Convert errors of reading and decoding to an `ImageError` that names `path`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(path, describe_unidentified(path.suffix)) from error
    except DECODER_ERRORS as error:
        raise ImageError(path, decoding_failure(error)) from error


def decoding_failure(error: BaseException) -> str:
    """Return one line of at most 200 characters that says why a file can't be used."""
    if isinstance(error, Image.DecompressionBombError):
        return f"larger than the limit: {error}".split(",")[0]
    if isinstance(error, MemoryError):
        return "does not fit in memory"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _check_pixels(image: Image.Image, path: Path, max_pixels: int) -> None:
    count = image.width * image.height
    if count > max_pixels:
        megapixels, limit = count / 1e6, max_pixels / 1e6
        raise ImageError(
            path, f"{image.width} x {image.height} is {megapixels:.0f} megapixels, above the limit of {limit:.0f}"
        )


def _gray_step(image: Image.Image) -> int:
    """Return the factor by which Pillow scales gray samples of 2 or 4 bits to 0..255 when it loads them; 1 for others.

    Programs that make PNGs small store an index mask of few classes with so few bits.
    """
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    raw_mode = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    return 85 if raw_mode.startswith("L;2") else 17 if raw_mode.startswith("L;4") else 1


def _is_lossy(image: Image.Image, file: IO[bytes]) -> bool:
    """Return whether compression changed the values of the image that was opened from `file`."""
    if image.format == "WEBP":  # the name of the first chunk, or of any chunk of an extended file
        file.seek(0)
        return b"VP8L" not in file.read()
    return image.format in ("JPEG", "MPO", "AVIF", "HEIF") or image.info.get("compression") in ("jpeg", "tiff_jpeg")


def _decode_file(file: IO[bytes], path: Path, max_pixels: int) -> DecodedImage:
    # Pillow gets an open file, because it memory-maps raw TIFFs that it opens by name: then it swaps width and height
    # for some orientations, and the process is killed if the file shrinks meanwhile.
    with Image.open(file, formats=pillow_formats()) as image:
        _check_pixels(image, path, max_pixels)
        if image.format == "TIFF":
            check_tiff(image)
        # Loading rotates a TIFF and drops its tag; in a PNG the tag may lie behind the pixels.
        before_loading = exif_orientation(image) if image.format == "TIFF" else None
        image.load()
        orientation = exif_orientation(image)
        return DecodedImage(apply_orientation(to_rgb(image), orientation), before_loading or orientation)
