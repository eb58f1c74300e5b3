"""Image formats: the ones that are read, their suffixes, and suffixes of images that are known and not read."""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

from PIL import features

_HAS_AVIF = features.check("avif")
_HAS_HEIF = find_spec("pillow_heif") is not None
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")

# Formats that Pillow may try, whatever the file's suffix. Formats that run other programs (EPS) are excluded. MPO files
# of phones open as JPEG: MPO has no opener of its own, and listing it here would be a KeyError for every other file.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", *(("AVIF",) if _HAS_AVIF else ()))

IMAGE_SUFFIXES = frozenset(
    [
        *".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .tif .tiff".split(),
        *((".avif",) if _HAS_AVIF else ()),
        *(_HEIF_SUFFIXES if _HAS_HEIF else ()),
    ]
)
"""Suffixes, in lower case, of the names that count as images."""

_UNREAD = (
    ".avif .avifs .heic .heif .hif .gif .jp2 .j2k .jpf .jpx .jxl .jxr .ppm .pgm .pbm .pnm .tga .psd .psb .xcf .svg "
    ".eps .ico .icns .exr .hdr .dds .pcx .qoi .fits .dcm .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw .svs .ndpi "
    ".npy"
)
UNREAD_SUFFIXES = frozenset(_UNREAD.split()) - IMAGE_SUFFIXES
"""Suffixes, in lower case, of image files that are not read; listings count them."""

CHANNEL_SUFFIXES = frozenset([".dcm", ".npy"])
"""Suffixes, in lower case, of images that are read with all of their channels alone."""


@cache
def pillow_formats() -> tuple[str, ...]:
    """Return the names of the formats that Pillow may try; the first call registers pillow-heif if it is installed."""
    if not _HAS_HEIF:
        return _FORMATS
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return (*_FORMATS, "HEIF")


def unread_hint(suffixes: Iterable[str]) -> str:
    """Return how files of these unread suffixes can be used after all."""
    suffixes = set(suffixes)
    if suffixes <= CHANNEL_SUFFIXES:
        return "gtsa train reads them with --channels auto"
    if suffixes & set(_HEIF_SUFFIXES):
        return "HEIC is read where pillow-heif is installed (pip install pillow-heif), convert others to PNG or JPEG"
    return "convert them to PNG or JPEG"


def describe_unidentified(suffix: str) -> str:
    """Return why no decoder took a file of this suffix."""
    suffix = suffix.lower()
    if suffix in _HEIF_SUFFIXES and not _HAS_HEIF:
        return "HEIC, which is read where pillow-heif is installed (pip install pillow-heif)"
    if suffix in UNREAD_SUFFIXES and suffix != ".gif":
        return f"{suffix} is no format that is read, convert it to PNG or JPEG"
    if suffix in (".tif", ".tiff"):
        return "not an image, damaged beyond recognition, or a TIFF of samples that are not read"
    return "not an image, or damaged beyond recognition"
