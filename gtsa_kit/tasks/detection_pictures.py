"""Pictures of detections: an image with boxes, masks, names and scores."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from gtsa_kit.models.task_spec import Label
from gtsa_kit.tasks.detections import ImageDetections
from gtsa_kit.tasks.mask_files import MAX_OVERLAY_SIDE, encode_jpeg, text_font

MASK_OPACITY: Final = 0.45
"""Opacity of a mask's color over an image."""
_FONT_SHARE, _FONT_SIZES = 48, (11, 40)
"""Size of text: the long side of the picture through the first number, within the others, in pixels."""


def draw_detections(image: np.ndarray, detections: ImageDetections, labels: Sequence[Label]) -> bytes:
    """Return an image (H, W, 3) uint8 with its detections as JPEG; see `paint_detections`."""
    return encode_jpeg(paint_detections(image, detections, labels))


def encode_png(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def paint_detections(image: np.ndarray, detections: ImageDetections, labels: Sequence[Label]) -> Image.Image:
    """Return an image (H, W, 3) uint8 with its detections, those of the highest scores on top.

    A box and its mask have the color of the label; its name and score stand on that color at the upper left corner.
    Images above `MAX_OVERLAY_SIDE` are reduced.
    """
    picture, scaled = _reduced(image, detections)
    pixels = np.array(picture)
    order = range(len(scaled) - 1, -1, -1)
    if scaled.masks is not None:
        for index in order:
            _blend(pixels, scaled, index, labels[scaled.classes[index]].color)
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    font_size = int(np.clip(max(canvas.size) / _FONT_SHARE, *_FONT_SIZES))
    for index in order:
        label = labels[scaled.classes[index]]
        _draw_box(pen, scaled.boxes[index], label.color, max(2, font_size // 6))
    for index in order:
        label = labels[scaled.classes[index]]
        text = f"{label.name} {scaled.scores[index]:.2f}"
        _draw_name(pen, canvas.size, scaled.boxes[index], text, label.color, font_size)
    return canvas


def _reduced(image: np.ndarray, detections: ImageDetections) -> tuple[Image.Image, ImageDetections]:
    picture, (height, width) = Image.fromarray(image), image.shape[:2]
    scale = MAX_OVERLAY_SIDE / max(height, width)
    if scale >= 1:
        return picture, detections
    size = max(1, round(width * scale)), max(1, round(height * scale))
    boxes = detections.boxes * np.tile(np.array(size, np.float32) / np.array((width, height), np.float32), 2)
    return picture.resize(size, Image.Resampling.BOX), replace(detections, size=size[::-1], boxes=boxes)


def _blend(pixels: np.ndarray, detections: ImageDetections, index: int, color: tuple[int, int, int]) -> None:
    """Blend the mask of a detection into an image."""
    part, x, y = detections.part(index)
    region = pixels[y : y + part.shape[0], x : x + part.shape[1]]
    mixed = (1 - MASK_OPACITY) * region[part] + MASK_OPACITY * np.array(color, np.float32)
    region[part] = (mixed + 0.5).astype(np.uint8)


def _draw_box(pen: ImageDraw.ImageDraw, box: np.ndarray, color: tuple[int, int, int], line: int) -> None:
    """Draw a box in its color on a line of the opposite lightness, which is seen on any ground."""
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    corners = x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)
    pen.rectangle(corners, outline=_contrast(color), width=line + 2)
    inner = tuple(value + shift for value, shift in zip(corners, (1, 1, -1, -1), strict=True))
    if inner[2] >= inner[0] and inner[3] >= inner[1]:
        pen.rectangle(inner, outline=color, width=line)


def _draw_name(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: np.ndarray,
    text: str,
    color: tuple[int, int, int],
    font_size: int,
) -> None:
    """Write a text above a box, or inside of it at the upper edge of the image, always within the image."""
    font = text_font(font_size)
    width, height = int(font.getlength(text)) + font_size // 2, round(font_size * 1.3)
    x = int(np.clip(box[0], 0, max(0, size[0] - width)))
    y = int(box[1]) - height if box[1] >= height else int(box[1])
    y = int(np.clip(y, 0, max(0, size[1] - height)))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    pen.text((x + font_size // 4, y + round(font_size * 0.1)), text, fill=_contrast(color), font=font)


def _contrast(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever is easier to read on a color, by the luminance of WCAG 2."""
    values = np.array(color) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else (255, 255, 255)
