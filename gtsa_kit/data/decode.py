"""Decoding of image files by the fastest decoder that gives the same pixels as Pillow."""

import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_io import MAX_PIXELS, decode_image, read_header
from gtsa_kit.data.large_images import one_large_image

IMAGES_THAT_REPAY_TORCHVISION = 5000
"""Number of images from which on the import of torchvision, 3 seconds, is repaid: it saves half a millisecond each."""


def use_fast_decoder(images: int) -> None:
    """Import torchvision, the fastest decoder, if `images` are to be decoded and that repays the import."""
    if images >= IMAGES_THAT_REPAY_TORCHVISION:
        with suppress(ImportError):  # the light installation has none, and Pillow decodes
            import torchvision  # noqa: F401


def decode(content: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Decode the content of an image file; images of more than `LARGE_IMAGE_PIXELS` are decoded one at a time.

    Returns:
        Upright pixels (H, W, 3) uint8, and the file's EXIF orientation.

    Raises:
        ImageError: As for `image_io.open_image`; the message begins with `name`.
    """
    path = Path(name)
    header = read_header(content, path, max_pixels)
    with one_large_image(header.width * header.height):
        if header.format == "JPEG" and header.mode in ("RGB", "L") and header.orientation == 1:
            pixels = _decode_jpeg(content)
            if pixels is not None and pixels.shape == (header.height, header.width, 3):
                return pixels, 1
        decoded = decode_image(content, path, max_pixels)
        return np.asarray(decoded.image), decoded.orientation


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """Decode a JPEG with torchvision, which copies less than Pillow and gives the same values; None on failure.

    None also where torchvision is not loaded, see `use_fast_decoder`.
    """
    if "torchvision" not in sys.modules:
        return None
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the buffer is not writable; nothing writes to it
            buffer = torch.frombuffer(content, dtype=torch.uint8)
        pixels: np.ndarray = decode_jpeg(buffer, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
        return pixels
    except RuntimeError:
        return None
