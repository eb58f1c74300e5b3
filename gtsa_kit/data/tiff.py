"""Kinds of samples in TIFF files: the ones that Pillow reads wrongly are converted here or refused by name."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FORMAT = 258, 262, 277, 284, 339  # TIFF 6.0, section 8
_NODATA = 42113  # GDAL
_UNSIGNED, _SIGNED = 1, 2


@dataclass(frozen=True)
class SampleKind:
    """Meaning of gray samples of more than 8 bits."""

    bits: int
    """Bits of a sample, or 0 if the file does not say."""
    unsigned: bool = False
    """True if the file says that 32-bit samples have no sign; Pillow's have one."""
    white_is_zero: bool = False
    """True if 0 is white."""


def sample_kind(image: Image.Image) -> SampleKind:
    """Return the meaning of an image's samples; only TIFF files say more than Pillow's mode does."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return SampleKind(16 if image.mode.startswith("I;16") else 0)
    unsigned = _first(tags, _FORMAT, _UNSIGNED) == _UNSIGNED
    return SampleKind(_first(tags, _BITS, 0), unsigned, _first(tags, _PHOTOMETRIC, 1) == 0)


def check_tiff(image: Image.Image) -> None:
    """Raise `ValueError` for samples that Pillow would decode to a wrong image."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits, count = _first(tags, _BITS, 1), _first(tags, _SAMPLES, 1)
    if _first(tags, _PLANAR, 1) == 2 and count > 1 and (bits != 8 or count == 2):
        raise ValueError(f"a TIFF with planes of {bits} bits for each channel, store its channels interleaved")
    if _first(tags, _FORMAT, _UNSIGNED) == _SIGNED and bits <= 16:
        raise ValueError(f"a TIFF with signed samples of {bits} bits, which have no known range, store them unsigned")
    if _first(tags, _PHOTOMETRIC, 1) == 0 and bits > 16:
        raise ValueError(f"a TIFF with samples of {bits} bits where 0 is white, store it with 0 as black")


def nodata_value(image: Image.Image) -> int | None:
    """Return the whole number that marks pixels without data in a GeoTIFF; None for other files."""
    text = str(getattr(image, "tag_v2", {}).get(_NODATA, "")).strip().rstrip("\0")
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _first(tags: Any, tag: int, default: int) -> int:
    """Return a tag's value, or the first of its values."""
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
