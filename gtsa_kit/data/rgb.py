"""Conversion of Pillow images of any mode and orientation to upright 8-bit RGB."""

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

from gtsa_kit.data.tiff import SampleKind, sample_kind

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

# Smallest and largest maximum of an image's samples, and the factor or divisor to 0..255.
_FLOAT_RANGES = ((0, 1, 255.0), (16, 255, 1.0), (4096, 65535, 1 / 257))
_INTEGER_RANGES = ((0, 2**8 - 1, 1), (2**12, 2**16 - 1, 2**8), (2**28, 2**32 - 1, 2**24))

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
        return Image.fromarray(_to_8_bit(np.asarray(image), sample_kind(image))).convert("RGB")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, kind: SampleKind) -> np.ndarray:
    """Scale the range of the samples to 0..255, where Pillow's own conversion would clip values above 255.

    16 bits and fewer have the range of their bits. The range of 32 bits is that of 8, 16 or 32 bits, by the largest
    value; a value between these would make the image almost black in one range and white in the other.
    """
    if values.dtype.itemsize == 2:
        values = values.astype(np.uint16) >> (max(kind.bits, 8) - 8)
        return np.asarray(255 - values if kind.white_is_zero else values, dtype=np.uint8)
    if values.dtype.kind == "i" and kind.unsigned:
        values = values.view(np.uint32)
    low, high = float(values.min()), float(values.max())
    for first, last, factor in _FLOAT_RANGES if values.dtype.kind == "f" else _INTEGER_RANGES:
        if low >= 0 and first <= high <= last:  # also false for NaN
            scaled = values * factor + 0.5 if values.dtype.kind == "f" else values.astype(np.uint32) // factor
            return np.asarray(np.minimum(scaled, 255), dtype=np.uint8)
    raise ValueError(f"samples from {low:g} to {high:g} have no known range; store 8 or 16 bits")
