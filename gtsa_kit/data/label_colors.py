"""Colors of labels: a palette whose colors differ to the eye, for labels that have no color of their own."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.data.formats import pillow_formats
from gtsa_kit.data.image_io import image_errors
from gtsa_kit.figures import PALETTE

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

VOID_COLOR: Color = (0, 0, 0)
"""Color of void pixels in pictures; no label gets one that is like it unless the user gives it."""

_MIN_DISTANCE = 5.0
"""Smallest distance in CIELAB of two colors of a palette that is used: a small difference at a glance."""
_LEVELS = tuple(range(20, 256, 21))  # of the candidates, in each channel: 1,728 colors
_WHITE: Color = (255, 255, 255)
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def parse_color(value: object) -> Color:
    """Return the color of `#RRGGBB` or of a list of three numbers from 0 to 255.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str) and len(value) == 7 and value[0] == "#" and _is_hex(value[1:]):
        return int_to_color(int(value[1:], 16))
    if isinstance(value, list) and len(value) == 3 and all(type(n) is int and 0 <= n <= 255 for n in value):
        red, green, blue = value
        return red, green, blue
    hint = "; in YAML a # outside of quotes begins a comment" if value is None else ""
    raise ValueError(f'{value!r} is no color like "#804080" or [128, 64, 128]{hint}')


def int_to_color(value: int) -> Color:
    """Return the color of 0xRRGGBB."""
    return value >> 16, value >> 8 & 255, value & 255


def color_to_int(color: Color) -> int:
    """Return 0xRRGGBB of a color."""
    return color[0] << 16 | color[1] << 8 | color[2]


def palette_colors(mask: Path, values: Iterable[int]) -> dict[int, Color]:
    """Return the colors of pixel values in the palette of a mask file; none without a palette, or if they are alike.

    A palette of gray levels, which programs add to indices, shows nothing of the first few.
    """
    with image_errors(mask), Image.open(mask, formats=pillow_formats()) as image:
        palette = image.getpalette("RGB") if image.mode == "P" else None
    flat = palette or []
    colors = {
        value: (flat[3 * value], flat[3 * value + 1], flat[3 * value + 2])
        for value in values
        if 3 * value + 2 < len(flat)
    }
    lab = to_lab(np.array(list(colors.values())).reshape(-1, 3))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.diag(np.full(len(lab), np.inf))
    return colors if distances.size and distances.min() > _MIN_DISTANCE else {}


def fill_colors(colors: Sequence[Color | None]) -> tuple[Color, ...]:
    """Return the colors of K labels; None is replaced by the color that is least like all others.

    The same labels get the same colors in every run. The first labels without a color get the colors of the figures
    (Okabe and Ito), as far as nothing given is like them. Every further color is, of 1,728 candidates, the one whose
    distance in CIELAB to its nearest neighbor among the colors so far, black and white is largest.
    """
    given = tuple(color for color in colors if color is not None)
    fresh = iter(_distinct(given, len(colors) - len(given)))
    return tuple(next(fresh) if color is None else color for color in colors)


@lru_cache(64)
def _distinct(taken: tuple[Color, ...], count: int) -> tuple[Color, ...]:
    """Return `count` colors that differ from each other and from `taken`."""
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), -1).reshape(-1, 3)
    candidates = np.concatenate([[parse_color(text) for text in PALETTE], grid])
    lab = to_lab(candidates)
    distance = np.full(len(candidates), np.inf)
    for color in (VOID_COLOR, _WHITE, *taken):
        distance = np.minimum(distance, _distances(lab, color))
    result: list[Color] = []
    while len(result) < count:
        preferred = np.flatnonzero(distance[: len(PALETTE)] > 20)  # the rest of the figures' colors
        index = int(preferred[0]) if len(preferred) else int(distance.argmax())
        red, green, blue = candidates[index].tolist()
        result.append((red, green, blue))
        distance = np.minimum(distance, _distances(lab, result[-1]))
    return tuple(result)


def to_lab(colors: np.ndarray) -> np.ndarray:
    """Return CIELAB (D65) of sRGB colors, (N, 3) of 0 to 255 to (N, 3) float64."""
    linear = np.asarray(colors, float) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _RGB_TO_XYZ.sum(1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], 1)


def _distances(lab: np.ndarray, color: Iterable[int]) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(lab - to_lab(np.array([[*color]])), axis=1)
    return distances


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)
