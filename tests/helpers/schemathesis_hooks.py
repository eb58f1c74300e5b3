"""Hooks of Schemathesis (SCHEMATHESIS_HOOKS): bodies of image types are valid image files or random bytes."""

import io

import schemathesis
from hypothesis import strategies
from PIL import Image

from gtsa_kit.service.request_parsing import IMAGE_TYPES


def image_file(file_format: str) -> bytes:
    """Return a small image file."""
    buffer = io.BytesIO()
    Image.new("RGB", (23, 17), "teal").save(buffer, file_format)
    return buffer.getvalue()


FILES = [image_file(file_format) for file_format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
for media_type in sorted(IMAGE_TYPES):
    schemathesis.openapi.media_type(media_type, strategies.sampled_from(FILES) | strategies.binary(max_size=200))
