"""Preprocessing of an encoder's input: size, interpolation, mean and standard deviation are defined here only.

Exported files carry them in their manifest. Needs numpy and Pillow, but not torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from gtsa_kit.models.sizes import check_image

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
INTERPOLATIONS: Final = {
    "bicubic, antialiased": Image.Resampling.BICUBIC,
    "bilinear, antialiased": Image.Resampling.BILINEAR,
}


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of an image to the encoder's input: stretch to size x size, scale to 0..1, normalize.

    Stretching keeps the whole image, and each patch of the feature map covers a rectangle of it.
    """

    size: int = 224
    """Default side of the square input in pixels."""
    resize: str = "stretch"
    interpolation: str = "bicubic, antialiased"
    mean: tuple[float, float, float] = MEAN
    """Mean of red, green and blue, 0 to 1."""
    std: tuple[float, float, float] = STD
    """Standard deviation of red, green and blue, 0 to 1."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a resize mode or interpolation that is not supported."""
        if self.resize != "stretch" or self.interpolation not in INTERPOLATIONS:
            supported = f"stretch with {' or '.join(INTERPOLATIONS)}"
            raise ValueError(
                f"preprocessing {self.resize!r}, {self.interpolation!r} is not supported; supported: {supported}"
            )

    def __call__(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """Convert an upright RGB image to (3, H, W) float32; `size` (height, width) replaces the square default.

        Raises:
            ValueError: See `resized`.
        """
        return np.ascontiguousarray(self.normalized(self.resized(image, size)).transpose(2, 0, 1))

    def resized(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """Resize an upright RGB image to (H, W, 3) uint8.

        Raises:
            ValueError: The image is no RGB image of Pillow, or the size is no pair of positive numbers.
        """
        height, width = check_image(image, size or (self.size, self.size))
        return np.asarray(image.resize((width, height), INTERPOLATIONS[self.interpolation]))

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """Normalize (..., 3) uint8 to float32 of the same shape."""
        scaled = pixels.astype(np.float32) / 255
        values: np.ndarray = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for manifests."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Preprocessing":
        """Build from a dictionary of a manifest."""
        mean, std = tuple(content["mean"]), tuple(content["std"])
        return cls(content["size"], content["resize"], content["interpolation"], mean, std)
