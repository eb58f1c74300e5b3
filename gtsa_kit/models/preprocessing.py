"""Preprocessing of an encoder's input: size, interpolation, mean and standard deviation are defined here only.

Exported files carry them in their manifest. Needs numpy and Pillow, but not torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from gtsa_kit.config.channels_section import sample_scale
from gtsa_kit.data.channels.image import sample_type
from gtsa_kit.models.sizes import check_image, check_size

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
INTERPOLATIONS: Final = {
    "bicubic, antialiased": Image.Resampling.BICUBIC,
    "bilinear, antialiased": Image.Resampling.BILINEAR,
}

InputImage = Image.Image | np.ndarray
"""RGB image of Pillow, or samples (H, W, N) of other channels."""


@dataclass(frozen=True)
class Samples:
    """Samples of images that are not 8-bit RGB."""

    dtype: str = "uint8"
    """Type of the samples: uint8, uint16 or float32."""
    low: tuple[float, ...] = ()
    """Smallest sample of each channel in training, in the units of the file; empty for 8-bit RGB."""
    high: tuple[float, ...] = ()
    """Largest sample of each channel in training."""
    clip: bool = False
    """True if samples are clipped to these limits."""
    colors: bool = True
    """True if the channels are red, green and blue."""
    dicom_window: bool = False
    """True if the display window of a DICOM file applies."""


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of an image to the encoder's input: stretch to size x size, scale to 0..1, normalize.

    Stretching keeps the whole image, and each patch of the feature map covers a rectangle of it.
    """

    size: int = 224
    """Default side of the square input in pixels."""
    resize: str = "stretch"
    interpolation: str = "bicubic, antialiased"
    mean: tuple[float, ...] = MEAN
    """Mean of each channel, of red, green and blue: 0 to 1; of samples that are not 8-bit, in their own units."""
    std: tuple[float, ...] = STD
    """Standard deviation of each channel, in the units of `mean`."""
    samples: Samples = Samples()
    """Kind of samples; 8-bit RGB unless it says something else."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a resize mode or interpolation that is not supported."""
        if self.resize != "stretch" or self.interpolation not in INTERPOLATIONS:
            supported = f"stretch with {' or '.join(INTERPOLATIONS)}"
            raise ValueError(
                f"preprocessing {self.resize!r}, {self.interpolation!r} is not supported; supported: {supported}"
            )

    @property
    def is_rgb(self) -> bool:
        """True for 8-bit RGB."""
        return self.samples == Samples()

    @property
    def scale(self) -> float:
        """Number that samples are divided by before the mean is subtracted."""
        return sample_scale(self.samples.dtype)

    def __call__(self, image: InputImage, size: tuple[int, int] | None = None) -> np.ndarray:
        """Convert an upright image to (N, H, W) float32; `size` (height, width) replaces the square default.

        The image is an RGB image of Pillow, or for other channels an array (H, W, N) of their samples.

        Raises:
            ValueError: See `resized`.
        """
        return np.ascontiguousarray(self.normalized(self.resized(image, size)).transpose(2, 0, 1))

    def checked(self, image: InputImage, size: Any = None) -> tuple[int, int]:
        """Check an image and the size to resize it to, and return the size.

        Raises:
            ValueError: As for `resized`.
        """
        size = size or (self.size, self.size)
        if self.is_rgb:
            return check_image(image, size)
        given = "an RGB image"
        if isinstance(image, np.ndarray):
            given = f"an array {image.shape} of {image.dtype}"
            fits = image.ndim == 3 and image.shape[-1] == len(self.mean) and image.size > 0
            if fits and sample_type(image.dtype) in (self.samples.dtype, "float32"):
                return check_size(size)
        raise ValueError(
            f"the model takes {len(self.mean)} channels of {self.samples.dtype}, and this is {given}; give images of "
            "the kind that it was trained with"
        )

    def resized(self, image: InputImage, size: tuple[int, int] | None = None) -> np.ndarray:
        """Resize an upright RGB image to (H, W, 3) uint8, or samples (H, W, N) to samples of the same type.

        Raises:
            ValueError: The image is none of the channels of the model, or the size is no pair of positive numbers.
        """
        height, width = self.checked(image, size)
        if isinstance(image, np.ndarray):
            return self.resized_samples(image, (height, width))
        return np.asarray(image.resize((width, height), INTERPOLATIONS[self.interpolation]))

    def resized_samples(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resize upright samples (H, W, N) to (height, width, N) of the type of the samples in files.

        Whole numbers are rounded, as Pillow does with 8-bit RGB, so that a graph that takes them gets the same samples
        as one that takes normalized images.
        """
        if self.is_rgb:
            return self.resized(Image.fromarray(pixels), size)
        return self.as_samples(resize_channels(self.clipped(pixels), size, self.interpolation))

    def as_samples(self, values: np.ndarray) -> np.ndarray:
        """Return float32 values (..., N) as the type of the samples in files, whole numbers rounded."""
        dtype = np.dtype(self.samples.dtype)
        if dtype.kind == "f":
            return values
        limits = np.iinfo(dtype)
        rounded: np.ndarray = np.rint(values).clip(limits.min, limits.max)
        return rounded.astype(dtype)

    def clipped(self, pixels: np.ndarray) -> np.ndarray:
        """Return samples (..., N) as float32, clipped to the limits if the model was trained so."""
        values: np.ndarray = pixels.astype(np.float32)
        if self.samples.clip:
            values = values.clip(*(np.asarray(limit, np.float32) for limit in (self.samples.low, self.samples.high)))
        return values

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """Normalize (..., N) samples to float32 of the same shape."""
        scaled = self.clipped(pixels) / np.float32(self.scale)
        values: np.ndarray = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for manifests."""
        content = asdict(self)
        if self.is_rgb:
            del content["samples"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Preprocessing":
        """Build from a dictionary of a manifest."""
        mean, std, stated = tuple(content["mean"]), tuple(content["std"]), content.get("samples")
        samples = Samples(**{**stated, "low": tuple(stated["low"]), "high": tuple(stated["high"])}) if stated else None
        return cls(content["size"], content["resize"], content["interpolation"], mean, std, samples or Samples())


def resize_channels(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize samples (H, W, N) to (height, width, N) float32, each channel as Pillow resizes it."""
    method, (height, width) = INTERPOLATIONS[interpolation], size
    channels = (np.ascontiguousarray(one, np.float32) for one in np.moveaxis(pixels, -1, 0))
    resized = [Image.fromarray(one).resize((width, height), method) for one in channels]
    return np.stack([np.asarray(one) for one in resized], axis=-1)


def image_size(image: InputImage) -> tuple[int, int]:
    """Return the (width, height) of an image in pixels."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
