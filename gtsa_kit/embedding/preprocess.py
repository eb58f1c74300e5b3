"""Preprocessing of image files to inputs of a model, by the fastest method that matches the reference.

The reference is Pillow's decoder and its antialiased bicubic resize. A faster method is used only where it stays within
1/255 of the reference (2/255 for one value in a million on black and white noise, as both round twice).
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
from gtsa_kit.export import Runner
from gtsa_kit.export.layout import InputFormat, from_channels_last
from gtsa_kit.models.encoder import INTERPOLATIONS, Preprocessing

MIN_TORCH_SHRINK = 1.5
"""Smallest downscaling factor for torch's resize; below it, torch's 16-bit weights can be two levels off."""

_TORCH_MODES = {"bicubic, antialiased": "bicubic", "bilinear, antialiased": "bilinear"}


@dataclass(frozen=True)
class PreparedImage:
    """An image preprocessed to a model's input, with the properties of its file."""

    path: str
    """Path of the image, relative to its source."""
    width: int
    """Width of the upright image in pixels."""
    height: int
    """Height of the upright image in pixels."""
    orientation: int
    """EXIF orientation of the file, 1 to 8."""
    sha256: str
    """Digest of the file."""
    stamp: str
    """Size and modification time of the file, or another mark that changes with it; "" if unknown."""
    pixels: np.ndarray
    """Input of the model: (3, H, W) or (H, W, 3), normalized float32 or uint8."""
    input_format: InputFormat

    @property
    def size(self) -> tuple[int, int]:
        """Input (height, width) in pixels."""
        return self.pixels.shape[1:] if self.input_format.layout == "nchw" else self.pixels.shape[:2]

    @property
    def grid(self) -> tuple[int, int]:
        """Shape (h, w) of the feature map, in patches."""
        return self.size[0] // self.input_format.patch, self.size[1] // self.input_format.patch

    @property
    def patches(self) -> int:
        """Patches of the input."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Preprocessor:
    """Function from the bytes of a file to a `PreparedImage`. It may be called from many threads."""

    preprocessing: Preprocessing
    resize: ResizePolicy
    input_format: InputFormat
    max_pixels: int = MAX_PIXELS
    """Larger images are rejected before they are decoded."""

    @classmethod
    def for_runner(cls, runner: Runner, resize: ResizePolicy, max_pixels: int = MAX_PIXELS) -> "Preprocessor":
        """Build the preprocessor that the runner's manifest describes."""
        return cls(runner.preprocessing, resize, runner.manifest.input_format, max_pixels)

    def __call__(self, path: str, content: bytes, stamp: str = "") -> PreparedImage:
        """Decode, resize and normalize one file.

        Raises:
            ImageError: The file is damaged, of an unknown format or too large.
        """
        image, orientation = decode(content, path, self.max_pixels)
        return self.prepare(path, image, orientation, hashlib.sha256(content).hexdigest(), stamp)

    def prepare(
        self, path: str, image: np.ndarray, orientation: int = 1, sha256: str = "", stamp: str = ""
    ) -> PreparedImage:
        """Resize and normalize upright pixels (H, W, 3) uint8."""
        height, width = image.shape[:2]
        size = self.resize(width, height)
        if self.resize.crop_from:
            image = np.asarray(self.resize.cut(Image.fromarray(image), self.preprocessing.interpolation))
        resized = resize(image, size, self.preprocessing)
        pixels = to_input(resized, self.preprocessing, self.input_format)
        return PreparedImage(path, width, height, orientation, sha256, stamp, pixels, self.input_format)


def to_input(pixels: np.ndarray, preprocessing: Preprocessing, input_format: InputFormat) -> np.ndarray:
    """Return the model's input of resized (H, W, 3) uint8 pixels: normalized and transposed as the model requires."""
    if input_format.normalizes:
        return from_channels_last(pixels, input_format.layout)
    normalized = normalize(pixels, preprocessing)
    return normalized if input_format.layout == "nchw" else np.ascontiguousarray(normalized.transpose(1, 2, 0))


def resize(pixels: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height, width, 3) uint8, within one level of `Preprocessing.resized`."""
    order = pass_order(pixels.shape[0], pixels.shape[1], *size, preprocessing.interpolation)
    if order is None:
        return preprocessing.resized(Image.fromarray(pixels), size)
    return _resize_by_torch(pixels, size, _TORCH_MODES[preprocessing.interpolation], order)


@lru_cache(4096)
def pass_order(height: int, width: int, to_height: int, to_width: int, interpolation: str) -> str | None:
    """Return the pass that Pillow does first at these sizes, "rows" or "columns"; None if Pillow itself must resize.

    Pillow rounds and clips to 0..255 between its two passes, so their order changes pixels at sharp edges by up to ten
    levels. The rule for the order differs between versions of Pillow. The order is therefore measured, once for each
    shape: noise is resized in both orders and compared with Pillow's result.
    """
    shrinks = height >= MIN_TORCH_SHRINK * to_height and width >= MIN_TORCH_SHRINK * to_width
    if not shrinks or height * width > LARGE_IMAGE_PIXELS:
        return None
    noise = np.random.default_rng(0).integers(0, 2, (height, width), dtype=np.uint8) * 255
    by_pillow = Image.fromarray(noise).resize((to_width, to_height), INTERPOLATIONS[interpolation])
    expected = np.asarray(by_pillow).astype(np.int16)
    for order in ("rows", "columns"):
        resized = _resize_by_torch(noise[..., None], (to_height, to_width), _TORCH_MODES[interpolation], order)[..., 0]
        if np.abs(resized - expected).max() <= 1:
            return order
    return None


def _resize_by_torch(pixels: np.ndarray, size: tuple[int, int], mode: str, order: str) -> np.ndarray:
    """Resize (H, W, C) uint8 to (height, width, C) uint8; torch always resizes the rows first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array may be read-only, and nothing writes to it
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, C, H, W), channels last in memory
    if order == "columns":
        image = image.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        size = size[1], size[0]
    image = F.interpolate(image, size, mode=mode, antialias=True, align_corners=False)[0]
    return (image.permute(2, 1, 0) if order == "columns" else image.permute(1, 2, 0)).contiguous().numpy()


def normalize(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Normalize (H, W, 3) uint8 to (3, H, W) float32, with a table of the normalized values of all 256 levels."""
    table = _normalized_levels(preprocessing.mean, preprocessing.std)
    return np.stack([np.take(table[channel], pixels[..., channel]) for channel in range(3)])


@lru_cache(8)
def _normalized_levels(mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """Return the normalized values (3, 256), float32, of every level of every channel."""
    levels = np.arange(256, dtype=np.float32)[None, :] / 255
    return (levels - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
