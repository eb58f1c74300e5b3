"""Preprocessing of image files to inputs of a model, by the fastest method that matches the reference.

The reference is Pillow's decoder and its antialiased bicubic resize. A faster method is used only where it stays within
1/255 of the reference (2/255 for one value in a million on black and white noise, as both round twice). Without torch,
Pillow does all.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from gtsa_kit.data.channels.frames import split_frame
from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.embedding.torch_resize import pass_order, resize_by_torch
from gtsa_kit.export import Runner
from gtsa_kit.export.layout import InputFormat
from gtsa_kit.models.channel_images import filled_samples, read_samples, reader_of
from gtsa_kit.models.preprocessing import Preprocessing


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
    """Input of the model: normalized (N, H, W) or samples (H, W, N)."""
    input_format: InputFormat
    nodata: np.ndarray | None = None
    """Pixels (height, width) bool of the upright image without data; None if all hold data."""

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

    def __call__(self, path: str, content: bytes, stamp: str = "", sha256: str = "") -> PreparedImage:
        """Decode, resize and normalize one file, or the frame of it that its path names.

        Args:
            path: Path of the image.
            content: Content of its file.
            stamp: Mark that changes with the file.
            sha256: Digest of the content, if it is known.

        Raises:
            ImageError: The file is damaged, of an unknown format or too large.
        """
        digest = sha256 or hashlib.sha256(content).hexdigest()
        if self.preprocessing.is_rgb:
            image, orientation = read_samples(content, path, self.preprocessing, self.max_pixels)
            return self.prepare(path, image, orientation, digest, stamp)
        read = reader_of(self.preprocessing, self.max_pixels)(content, path, split_frame(path)[1])
        samples = filled_samples(read, self.preprocessing)
        prepared = self.prepare(path, samples, read.orientation, digest, stamp)
        return prepared if read.valid is None else replace(prepared, nodata=~read.valid)

    def prepare(
        self, path: str, image: np.ndarray, orientation: int = 1, sha256: str = "", stamp: str = ""
    ) -> PreparedImage:
        """Resize and normalize upright pixels (H, W, 3) uint8, or samples (H, W, N) of other channels."""
        height, width = image.shape[:2]
        size = self.resize(width, height)
        if self.resize.crop_from:
            picture = Image.fromarray(image) if self.preprocessing.is_rgb else image
            image = np.asarray(self.resize.cut(picture, self.preprocessing.interpolation))
        resized = resize(image, size, self.preprocessing)
        pixels = to_input(resized, self.preprocessing, self.input_format)
        return PreparedImage(path, width, height, orientation, sha256, stamp, pixels, self.input_format)


def to_input(pixels: np.ndarray, preprocessing: Preprocessing, input_format: InputFormat) -> np.ndarray:
    """Return the model's input of resized pixels (H, W, N): normalized and transposed as the model requires."""
    if input_format.normalizes:
        return input_format.of_samples(pixels)
    normalized = normalize(pixels, preprocessing)
    return normalized if input_format.layout == "nchw" else np.ascontiguousarray(normalized.transpose(1, 2, 0))


def resize(pixels: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height, width, 3) uint8, within one level of `Preprocessing.resized`.

    Samples of other channels than 8-bit RGB are resized by it.
    """
    if not preprocessing.is_rgb:
        return preprocessing.resized(pixels, size)
    order = pass_order(pixels.shape[0], pixels.shape[1], *size, preprocessing.interpolation)
    if order is None:
        return preprocessing.resized(Image.fromarray(pixels), size)
    return resize_by_torch(pixels, size, preprocessing.interpolation, order)


def normalize(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Normalize (H, W, N) to (N, H, W) float32; 8-bit RGB with a table of the normalized values of all 256 levels."""
    if not preprocessing.is_rgb:
        return np.ascontiguousarray(preprocessing.normalized(pixels).transpose(2, 0, 1))
    table = _normalized_levels(preprocessing.mean, preprocessing.std)
    return np.stack([np.take(table[channel], pixels[..., channel]) for channel in range(3)])


@lru_cache(8)
def _normalized_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return the normalized values (3, 256), float32, of every level of every channel."""
    levels = np.arange(256, dtype=np.float32)[None, :] / 255
    return (levels - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
