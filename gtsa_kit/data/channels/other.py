"""Files that are read with all of their channels alone: what they are, for errors and notes about `--channels`."""

from contextlib import suppress

from gtsa_kit.data.channels import dicom, npy, tiff
from gtsa_kit.data.channels.image import ChannelLayout
from gtsa_kit.data.channels.read import read_header
from gtsa_kit.data.image_io import ImageError

_RGB_COUNTS = (1, 3, 4)
"""Channels of a TIFF that is read as RGB too: gray, RGB, and RGB with alpha or CMYK."""


def other_channels(content: bytes) -> ChannelLayout | None:
    """Return the layout of an image that is not read as 8-bit RGB; None for others, and where it can't be read."""
    is_tiff = content.startswith(tiff.MAGICS)
    is_array = content.startswith(npy.MAGIC) or content[dicom.MAGIC_AT :].startswith(dicom.MAGIC)
    if not (is_tiff or is_array):
        return None
    with suppress(ImageError, ModuleNotFoundError):
        layout = read_header(content).layout
        if is_array or layout.count not in _RGB_COUNTS or (layout.count > 1 and layout.dtype == "float32"):
            return layout
    return None
