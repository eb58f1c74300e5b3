"""Image files made by hand or by Pillow, for the tests that read them."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def scene(height: int = 24, width: int = 32) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with smooth gradients; every flip and rotation changes it."""
    y, x = np.mgrid[:height, :width] / np.array([height - 1 or 1, width - 1 or 1])[:, None, None]
    channels = [x, y, 0.5 + 0.5 * np.sin(5 * x + 3 * y)]
    return np.round(255 * np.stack(channels, -1)).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image file that Pillow writes."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(path: Path, picture: np.ndarray | None = None, **options: Any) -> Path:
    """Write a JPEG of `picture`, by default of `scene()`, and return its path."""
    path.write_bytes(encoded(scene() if picture is None else picture, "JPEG", **options))
    return path


def png_by_hand(samples: np.ndarray, more: bytes = b"", size: tuple[int, int] | None = None) -> bytes:
    """Return a PNG of (H, W) or (H, W, 2 | 3 | 4) samples, 8 or 16 bits; Pillow can't write color of 16 bits.

    `more` holds chunks to insert before the pixels; `size` is a false (width, height) for the header.
    """
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, channels = samples.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    bits = 8 * samples.dtype.itemsize
    rows = samples.astype(f">u{samples.dtype.itemsize}").reshape(height, -1).view(np.uint8)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # filter 0 before each row
    header = struct.pack(">IIBBBBB", *(size or (width, height)), bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, content: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff_by_hand(
    samples: np.ndarray, order: str = "<", orientation: int = 1, white_is_zero: bool = False, planes: bool = False
) -> bytes:
    """Return an uncompressed TIFF of (H, W) or (H, W, C) samples of any type, in the byte order "<" or ">".

    The pixels come last, after the header and the directory, so that truncation always removes pixels. With `planes`,
    each channel is stored by itself.
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    bits = 8 * samples.dtype.itemsize
    stored = np.moveaxis(samples, -1, 0) if planes else samples
    pixels = stored.astype(samples.dtype.newbyteorder(order)).tobytes()
    strips = channels if planes else 1
    color = 0 if white_is_zero else 1 if channels < 3 else 2
    aside = 8 + 2 + 12 * 12 + 4  # end of the directory
    lists = 2 * 2 * channels * (channels > 2) + 2 * 4 * strips * (strips > 1)
    start = aside + lists  # start of the pixels, after the values of more than four bytes
    size = len(pixels) // strips
    entries = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [bits] * channels),
        (259, "H", [1]),
        (262, "H", [color]),
        (273, "I", [start + size * strip for strip in range(strips)]),
        (274, "H", [orientation]),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [size] * strips),
        (284, "H", [2 if planes else 1]),
        (339, "H", [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * channels),
    ]
    directory, outside = struct.pack(order + "H", len(entries)), b""
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > 4:
            outside, packed = outside + packed, struct.pack(order + "I", aside + len(outside))
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + directory + struct.pack(order + "I", 0) + outside.ljust(lists, b"\0") + pixels
