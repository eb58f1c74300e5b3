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
"""Images whose headers tell whether a source holds samples of more than 8 bits."""

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


def count_deep(source: Source, entries: Iterable[Entry], limit: int = LOOKED_AT) -> tuple[int, int]:
    """Return how many of the first images have samples of more than 8 bits, and how many were looked at.

    Their headers are read; files that can't be read are passed over.
    """
    deep = looked_at = 0
    for entry in islice(entries, limit):
        with suppress(ImageError, ModuleNotFoundError), open_entry(source, entry) as content:
            deep += read_header(content, Path(entry.name)).layout.dtype != "uint8"
            looked_at += 1
    return deep, looked_at


def describe_deep(source: Source, entries: Iterable[Entry]) -> str:
    """Return a note that images of more than 8 bits are read as 8-bit RGB; "" if there are none."""
    deep, looked_at = count_deep(source, entries)
    if not deep:
        return ""
    return (
        f"{deep} of {looked_at} images that were looked at have samples of more than 8 bits, and are read as 8-bit "
        "RGB; gtsa train --channels auto trains on all bits and channels"
    )
