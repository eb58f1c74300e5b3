"""From the bytes of a file to the pixels that Pillow gives, by the fastest way there is for that file."""

import threading
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from gtsa_kit.data.image_io import MAX_PIXELS, decode_image, read_header

LARGE_IMAGE_PIXELS = 24_000_000
"""Pixels; images above are decoded one at a time, so that memory holds one of them and not one for each core."""

_one_large = threading.Lock()


def decode(content: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Upright (H, W, 3) uint8 and the file's EXIF orientation; large images wait for each other.

    Raises:
        ImageError: As `images.open_image`.
    """
    path = Path(name)
    header = read_header(content, path, max_pixels)
    with _one_large if header.width * header.height > LARGE_IMAGE_PIXELS else nullcontext():
        if header.kind == "JPEG" and header.mode in ("RGB", "L") and header.orientation == 1:
            pixels = _decode_jpeg(content)
            if pixels is not None and pixels.shape == (header.height, header.width, 3):
                return pixels, 1
        image = decode_image(content, path, max_pixels)
        return np.asarray(image.image), image.orientation


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """The values that Pillow gives (both use libjpeg-turbo) with fewer copies; None for what needs a closer look."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the buffer is not writable, and nobody writes
            buffer = torch.frombuffer(content, dtype=torch.uint8)
        pixels: np.ndarray = decode_jpeg(buffer, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
        return pixels
    except RuntimeError:
        return None
