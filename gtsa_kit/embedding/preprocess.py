"""From the bytes of a file to an input of the model, by the fastest way that gives what the reference gives.

The reference is Pillow: decoded by it, resized by its antialiased bicubic. Another way is taken only where it is known
to stay within 1/255 of that at every pixel.
"""

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from gtsa_kit.data.decode import LARGE_IMAGE_PIXELS, decode
from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.models.encoder import INTERPOLATIONS, Preprocessing

SHRINK = 1.5
"""Sides that shrink less go through Pillow: there torch's 16-bit weights can be two levels off."""

_MODES = {"bicubic, antialiased": "bicubic", "bilinear, antialiased": "bilinear"}


@dataclass(frozen=True)
class PreparedImage:
    """An image that the model can take."""

    name: str
    width: int
    height: int
    """Of the upright image."""
    orientation: int
    sha256: str
    """Of the file; "" unless asked for."""
    image: np.ndarray
    """(3, H, W) float32 or (H, W, 3) uint8, as the model wants it."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.image.shape[-2:] if self.image.dtype == np.float32 else self.image.shape[:2]


@dataclass(frozen=True)
class Decoder:
    """Bytes to `PreparedImage`; may be called from many threads."""

    preprocessing: Preprocessing
    sizes: ResizePolicy
    as_bytes: bool
    """The model normalizes by itself."""
    max_pixels: int = MAX_PIXELS
    digest: bool = False

    def __call__(self, name: str, content: bytes) -> PreparedImage:
        """Raises `ImageError`."""
        whole, orientation = decode(content, name, self.max_pixels)
        height, width = whole.shape[:2]
        pixels = resize(whole, self.sizes(width, height), self.preprocessing)
        image = pixels if self.as_bytes else normalize(pixels, self.preprocessing)
        digest = hashlib.sha256(content).hexdigest() if self.digest else ""
        return PreparedImage(name, width, height, orientation, digest, image)


def resize(pixels: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """(H, W, 3) uint8 to (height, width, 3) uint8, within one level of `Preprocessing.resized`."""
    order = pass_order(pixels.shape[0], pixels.shape[1], *size, preprocessing.interpolation)
    if order is None:
        return preprocessing.resized(Image.fromarray(pixels), size)
    return _resize_by_torch(pixels, size, _MODES[preprocessing.interpolation], order)


@lru_cache(4096)
def pass_order(height: int, width: int, to_height: int, to_width: int, interpolation: str) -> str | None:
    """Which of its two passes Pillow does first at these sizes, "rows" or "columns"; None if only Pillow will do.

    Between the passes it rounds and cuts to 0..255, so the order shows, by up to ten levels at sharp edges. Its rule
    changes between versions: therefore noise is sent through, once for each shape.
    """
    if height < SHRINK * to_height or width < SHRINK * to_width or height * width > LARGE_IMAGE_PIXELS:
        return None
    noise = np.random.default_rng(0).integers(0, 2, (height, width), dtype=np.uint8) * 255
    by_pillow = Image.fromarray(noise).resize((to_width, to_height), INTERPOLATIONS[interpolation])
    wanted = np.asarray(by_pillow).astype(np.int16)
    for order in ("rows", "columns"):
        found = _resize_by_torch(noise[..., None], (to_height, to_width), _MODES[interpolation], order)[..., 0]
        if np.abs(found - wanted).max() <= 1:
            return order
    return None


def _resize_by_torch(pixels: np.ndarray, size: tuple[int, int], mode: str, order: str) -> np.ndarray:
    """(H, W, C) uint8 to (height, width, C) uint8; torch always does the rows first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pixels may not be writable, and nobody writes
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, C, H, W), channels last in memory
    if order == "columns":
        image = image.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        size = size[1], size[0]
    image = F.interpolate(image, size, mode=mode, antialias=True, align_corners=False)[0]
    return (image.permute(2, 1, 0) if order == "columns" else image.permute(1, 2, 0)).contiguous().numpy()


def normalize(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(H, W, 3) uint8 to (3, H, W) float32, by looking up what `Preprocessing` says of each of 256 levels."""
    table = _levels(preprocessing.mean, preprocessing.std)
    return np.stack([np.take(table[channel], pixels[..., channel]) for channel in range(3)])


@lru_cache(8)
def _levels(mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """(3, 256) float32."""
    levels = np.arange(256, dtype=np.float32)[None, :] / 255
    return (levels - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
