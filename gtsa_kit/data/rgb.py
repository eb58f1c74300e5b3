"""Conversion of Pillow images of any mode and orientation to upright 8-bit RGB."""

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Errors of Pillow's decoders, which have no common class; each is documented or was seen with damaged files."""

# EXIF orientation -> operation that makes the image upright.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, as far as the image has been read; 1 if it is missing or invalid.

    No pixel is decoded here, so the errors that are ignored are those of damaged metadata alone.
    """
    try:
        # `image.getexif()` of a PNG decodes the pixels, and an error of it would leave a half-black image behind.
        orientation = int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
        return orientation if orientation in _TRANSPOSE else 1
    except DECODER_ERRORS:  # the pixels are usable
        return 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate or mirror an image that is stored with an EXIF orientation, so that it is upright."""
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; transparent images are composited over white.

    Raises:
        ValueError: The range of samples of more than 8 bits is unknown.
    """
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale the full range of the sample type to 0..255, where Pillow's own conversion would clip values above 255."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high < 2**32):  # also false for NaN
        raise ValueError(f"samples from {low:g} to {high:g} have no known range; store 8 or 16 bits")
    if values.dtype.kind == "f":
        scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
        return np.asarray(np.clip(values * scale + 0.5, 0, 255), dtype=np.uint8)
    if values.dtype.itemsize == 2 or high < 2**16:
        return np.asarray(values.astype(np.uint16) >> 8, dtype=np.uint8)
    return np.asarray(values.astype(np.uint32) >> 24, dtype=np.uint8)
