"""Decoding of uploaded images: what a model takes, and errors that name no path and no library."""

import re
from typing import Any, Final

import numpy as np

from gtsa_kit.data.image_io import ImageError
from gtsa_kit.models.channel_images import read_samples, reader_of
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.service.errors import APIError, unsupported_media_type
from gtsa_kit.service.request_parsing import DICOM, IMAGE_TYPES, NPY, OCTET_STREAM, UploadedImage

_MAX_COLORS: Final = 4
"""Channels of the image formats other than TIFF, DICOM and arrays."""
# Reasons of this project's own readers, which may be sent to clients. Those of the decoders name libraries.
_OWN_REASONS: Final = re.compile(
    r"empty file$|not an image|[0-9]+ x [0-9]+ (is [0-9]+ megapixels|of [0-9]+ channel)|[0-9]+ channels? of |"
    r"samples of |an array \(|a TIFF |a DICOM file |no DICOM file|an image of |no pixel holds data|"
    r"[0-9]+ of [0-9]+ pixels are |[0-9]+ bytes follow the header"
)


def describe_input(preprocessing: Preprocessing) -> str:
    """Return what images a model takes, in words."""
    return "8-bit RGB" if preprocessing.is_rgb else str(reader_of(preprocessing).layout)


def input_types(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return the content types of images that a model takes."""
    count, dtype = len(preprocessing.mean), preprocessing.samples.dtype
    if preprocessing.is_rgb:
        return tuple(sorted(IMAGE_TYPES - {DICOM}))
    types = {OCTET_STREAM, NPY, "image/tiff"}
    if count <= _MAX_COLORS and dtype == "uint8":
        types |= IMAGE_TYPES - {DICOM}
    if count <= _MAX_COLORS and dtype == "uint16":
        types |= {"image/png", "image/x-png"}
    if count == 3 or (count, dtype) == (1, "float32"):
        types |= {DICOM}
    return tuple(sorted(types))


def input_info(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the `input` entry of /v1/model."""
    samples = preprocessing.samples
    return {
        "channels": len(preprocessing.mean),
        "dtype": samples.dtype,
        "colors": samples.colors,
        "content_types": list(input_types(preprocessing)),
    }


def decode_upload(upload: UploadedImage, preprocessing: Preprocessing, max_pixels: int) -> tuple[np.ndarray, int]:
    """Return the upright image, (H, W, 3) uint8 or samples (H, W, N), and the EXIF orientation of its file.

    Raises:
        APIError: 422. An image of more than `max_pixels`, or of other channels than the model's, is rejected by its
            header, before it is decoded. 415 for a format whose reader is not installed.
    """
    try:
        return read_samples(upload.content, "image", preprocessing, max_pixels)
    except ImageError as error:
        is_own = _OWN_REASONS.match(error.reason)
        message = error.reason if is_own else "damaged, or of an unknown file format"
        raise APIError(422, "undecodable_image", message, "image") from error
    except ModuleNotFoundError as error:
        raise unsupported_media_type("this service is installed without the reader of this format") from error
