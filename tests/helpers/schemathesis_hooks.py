"""For Schemathesis' command (SCHEMATHESIS_HOOKS): bodies of image types are image files, sound and not."""

import io

import schemathesis
from hypothesis import strategies
from PIL import Image

from gtsa_kit.service.request_parsing import IMAGE_TYPES


def file(kind: str) -> bytes:
    """A small one."""
    buffer = io.BytesIO()
    Image.new("RGB", (23, 17), "teal").save(buffer, kind)
    return buffer.getvalue()


FILES = [file(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
for media in sorted(IMAGE_TYPES):
    schemathesis.openapi.media_type(media, strategies.sampled_from(FILES) | strategies.binary(max_size=200))
