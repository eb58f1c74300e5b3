"""Reading of images of N channels from any container; every failure is an `ImageError` with a reason."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

from gtsa_kit.data.channels import dicom, npy, pictures, tiff
from gtsa_kit.data.channels.image import (
    BYTES_PER_PIXEL,
    ChannelHeader,
    ChannelImage,
    ChannelLayout,
    Window,
    check_limits,
)
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, image_errors
from gtsa_kit.data.large_images import one_large_image


def read_header(content: bytes | IO[bytes], path: Path = Path("image")) -> ChannelHeader:
    """Return the shape of an image in a file's content, or in an open file, without decoding pixels.

    Raises:
        ImageError: The file is empty, damaged, no image, or holds no intensities.
    """
    with _errors(path), _file(content, path) as file:
        header: ChannelHeader = _reader(file).read_header(file)
        return header


def read_channels(
    content: bytes | IO[bytes],
    path: Path = Path("image"),
    max_pixels: int = MAX_PIXELS,
    frame: int = 0,
    window: Window | None = None,
    dicom_window: bool = False,
    check: Callable[[ChannelLayout], None] = lambda _: None,
    allow_empty: bool = False,
) -> ChannelImage:
    """Read an image with all of its channels at their full depth; of a large TIFF or array a window alone.

    Args:
        content: Content of a file, or an open file.
        path: Name for errors.
        max_pixels: Limit of what is decoded, checked before: pixels, and three times as many bytes.
        frame: Number of the frame in a file with several.
        window: Window to read, in pixels of the stored image; None for the whole image.
        dicom_window: Apply the display window that a DICOM file states.
        check: Called with the layout, also before pixels are decoded; raises `ImageError` for one that is not wanted.
        allow_empty: Return pixels of which none holds data, in place of an error.

    Raises:
        ImageError: As for `read_header`, or by `check`; or the image is too large, holds NaN where it states data, or
            no data at all.
    """
    with _errors(path), _file(content, path) as file:
        reader = _reader(file)
        header: ChannelHeader = reader.read_header(file)
        decoded = _size_to_decode(reader, header, window)
        check_limits(decoded, path, max_pixels)
        check(header.layout)
        options = {"apply_window": dicom_window} if reader is dicom else {}
        with one_large_image(decoded.nbytes // BYTES_PER_PIXEL):
            image: ChannelImage = reader.read_image(file, frame, window, **options)
        check(image.layout)
        if not allow_empty and image.valid is not None and not image.valid.any():
            raise ImageError(path, "no pixel holds data")
        return image


def reads_windows(file: IO[bytes], path: Path = Path("image")) -> bool:
    """Return whether little else than a window is read of an open file, in pixels of the upright image.

    Raises:
        ImageError: As for `read_header`.
    """
    with _errors(path):
        reader = _reader(file)
        return reader is npy or (reader is tiff and tiff.is_upright(file))


def check_layout(actual: ChannelLayout, required: ChannelLayout, path: Path) -> None:
    """Raise `ImageError` for an image with another number of channels or another depth than the others."""
    if actual.count != required.count:
        raise ImageError(path, f"{actual}, where the others have {required.count}")
    if actual.dtype != required.dtype:
        raise ImageError(path, f"samples of {actual.dtype}, where the others have {required.dtype}")


def _reader(file: IO[bytes]) -> ModuleType:
    """Return the module that reads a file, by its first bytes."""
    file.seek(0)
    start = file.read(dicom.MAGIC_AT + len(dicom.MAGIC))
    if start.startswith(npy.MAGIC):
        return npy
    if start.startswith(tiff.MAGICS):
        return tiff
    return dicom if start[dicom.MAGIC_AT :] == dicom.MAGIC else pictures


def _size_to_decode(reader: ModuleType, header: ChannelHeader, window: Window | None) -> ChannelHeader:
    """Return the header of what is decoded: a window of a TIFF or of an array, else a whole frame."""
    if window is None or reader not in (tiff, npy):
        return header
    return ChannelHeader(header.layout, window.y1 - window.y0, window.x1 - window.x0)


@contextmanager
def _file(content: bytes | IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if isinstance(content, bytes) and not content:
        raise ImageError(path, "empty file")
    yield io.BytesIO(content) if isinstance(content, bytes) else content


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Convert errors of the readers to an `ImageError` that names `path`; a missing package stays what it is."""
    with image_errors(path):
        try:
            yield
        except ModuleNotFoundError:
            raise
        except (ImageError, OSError, ValueError, MemoryError):
            raise
        except Exception as error:  # decoders of many libraries, which have no common class of errors
            raise ValueError(str(error) or type(error).__name__) from error
