"""Files that are read with all of their channels alone: what they are, for errors and notes about `--channels`."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from gtsa_kit.data.channels import dicom, npy, tiff
from gtsa_kit.data.channels.image import ChannelLayout
from gtsa_kit.data.channels.read import read_header
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_entry

LOOKED_AT = 50
"""Images whose headers tell whether a source holds more than 8-bit RGB keeps."""

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


def describe_reduced(source: Source, entries: Iterable[Entry]) -> str:
    """Return a note about images that 8-bit RGB keeps only a part of; "" if there are none among the first ones.

    Their headers are read; files that can't be read are passed over.
    """
    reduced = looked_at = 0
    for entry in islice(entries, LOOKED_AT):
        with suppress(ImageError, ModuleNotFoundError), open_entry(source, entry) as content:
            layout = read_header(content, Path(entry.name)).layout
            reduced += layout.dtype != "uint8" or layout.count > max(_RGB_COUNTS)
            looked_at += 1
    if not reduced:
        return ""
    return (
        f"{reduced} of {looked_at} images that were looked at have more than 8 bits or 4 channels, and 8-bit RGB keeps "
        "a part of them; gtsa train --channels auto trains on all"
    )
