"""Pictures of predictions: index PNG with a palette, and overlays with a legend."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gtsa_kit.data.label_map import VOID
from gtsa_kit.models.task_spec import Label

OPACITY: Final = 0.55
"""Opacity of the colors over an image."""
MAX_OVERLAY_SIDE: Final = 4096
"""Long side of an overlay in pixels; overlays of larger images are reduced."""
_LINE, _MARGIN, _FONT_SIZE = 20, 6, 13


def pixel_values(labels: Sequence[Label]) -> tuple[np.ndarray, bool]:
    """Return the pixel value (K,) uint8 of each class in written masks, and True if these are the labels' ids.

    Ids that do not fit into a byte, such as colors, or that are not unique are replaced by class numbers.
    """
    ids = [label.id for label in labels]
    fits = all(0 <= value <= 255 for value in ids) and len(set(ids)) == len(ids)
    return np.array(ids if fits else range(len(ids)), np.uint8), fits


def nodata_pixel(labels: Sequence[Label]) -> int:
    """Return the pixel value in written masks where an image has no data: the largest that is no class."""
    return max(set(range(256)) - set(pixel_values(labels)[0].tolist()))


def mask_colors(labels: Sequence[Label]) -> np.ndarray:
    """Return the palette (256, 3) uint8 of written masks: the colors of the labels, black elsewhere."""
    palette = np.zeros((256, 3), np.uint8)
    palette[pixel_values(labels)[0]] = [label.color for label in labels]
    return palette


def written_values(mask: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Return the pixel values (H, W) uint8 of class numbers (H, W), which are `VOID` where there is no data."""
    table = np.full(VOID + 1, nodata_pixel(labels), np.uint8)
    table[: len(labels)] = pixel_values(labels)[0]
    values: np.ndarray = table[mask]
    return values


def encode_mask(mask: np.ndarray, labels: Sequence[Label]) -> bytes:
    """Return class numbers (H, W) as an indexed PNG whose palette holds the colors of the labels."""
    image = Image.fromarray(written_values(mask, labels), "L")
    image.putpalette(mask_colors(labels).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def draw_overlay(image: np.ndarray, mask: np.ndarray, labels: Sequence[Label]) -> bytes:
    """Return an image (H, W, 3) uint8 under its mask in transparent colors, with a legend below, as JPEG."""
    picture, reduced = _reduce(image, mask)
    colors = np.zeros((VOID + 1, 3), np.float32)
    colors[: len(labels)] = [label.color for label in labels]
    blended = (1 - OPACITY) * picture + OPACITY * colors[reduced]
    present = [labels[number] for number in np.unique(mask) if number != VOID]
    legend = _draw_legend(present, picture.shape[1])
    whole = Image.new("RGB", (picture.shape[1], picture.shape[0] + legend.height), "white")
    whole.paste(Image.fromarray((blended + 0.5).astype(np.uint8)), (0, 0))
    whole.paste(legend, (0, picture.shape[0]))
    return encode_jpeg(whole)


def encode_jpeg(picture: Image.Image) -> bytes:
    """Return a picture as JPEG with colors at full resolution, which thin lines need."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _reduce(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = mask.shape
    scale = MAX_OVERLAY_SIDE / max(height, width)
    if scale >= 1:
        return image, mask
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    return np.asarray(small), np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _draw_legend(labels: Sequence[Label], width: int) -> Image.Image:
    """Return a white image of a given width with a swatch and the name of each label, in as many lines as they need."""
    font, positions = text_font(_FONT_SIZE), []
    x, y = _MARGIN, _MARGIN
    for label in labels:
        length = _LINE + int(font.getlength(label.name)) + 2 * _MARGIN
        if x > _MARGIN and x + length > width:
            x, y = _MARGIN, y + _LINE
        positions.append((x, y))
        x += length
    legend = Image.new("RGB", (width, y + _LINE + _MARGIN), "white")
    canvas = ImageDraw.Draw(legend)
    for label, (x, y) in zip(labels, positions, strict=True):
        canvas.rectangle((x, y + 2, x + 13, y + 15), fill=tuple(label.color), outline="black")
        canvas.text((x + _LINE, y), label.name, fill="black", font=font)
    return legend


@lru_cache(32)
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of pictures at a size in pixels."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
