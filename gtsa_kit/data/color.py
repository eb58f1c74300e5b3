"""Color jitter, gray and blur of small images, by the arithmetic of Pillow, many pixels at a time.

Images are (3, n) or (3, S, S) uint8, color by color. All but hue and blur give what Pillow gives, bit by bit: it
computes in float32 and cuts off what is behind the point. Hue is within one level of it, blur within three.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

Image = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

_LUMA = np.array([[19595, 38470, 7471]], np.float32) / 65536  # in float32 all sums with these are exact
_HALF = np.float32(0.5)
_BYTE = np.uint16(8)
_CENTERS = np.array([[765], [510], [1020]], np.int16)  # red is missing about cyan; green, blue but about themselves
_BLOCK = 16  # rows and columns that the blur makes at a time


def adjust_brightness(image: Image, factor: float) -> Image:
    """All values times a factor."""
    return _stretch(image.astype(np.float32), None, factor)


def adjust_contrast(image: Image, factor: float) -> Image:
    """Away from the mean gray by a factor."""
    pixels = image.astype(np.float32)
    mean = _gray(pixels).sum(-1).sum(dtype=np.float64) / (image.size // 3)
    return _stretch(pixels, np.float32(math.floor(mean + 0.5)), factor)


def adjust_saturation(image: Image, factor: float) -> Image:
    """Away from each pixel's gray by a factor."""
    pixels = image.astype(np.float32)
    return _stretch(pixels, _gray(pixels), factor)


def _stretch(pixels: Floats, middle: Floats | np.float32 | None, factor: float) -> Image:
    """Away from the middle (None: from black), by a factor, in place."""
    if middle is not None:
        pixels -= middle
    pixels *= np.float32(factor)
    if middle is not None:
        pixels += middle
    if factor > 1:  # otherwise nothing leaves the range
        np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8)


def to_grayscale(image: Image) -> Image:
    """Three equal channels."""
    return np.repeat(_gray(image.astype(np.float32)).astype(np.uint8), 3, axis=0)


def adjust_hue(image: Image, factor: float) -> Image:
    """Hue on by a part of the circle, [-0.5, 0.5].

    Pillow keeps hue in 8 bits, which can be six levels of a color: so the same 256 hues are used here.
    """
    top, chroma, hue = hues(image.reshape(3, -1))
    hue += np.int32(factor * 255).astype(np.uint8)  # beyond the end of the circle it goes on from the start
    place = hue.astype(np.int16)
    place *= np.int16(6)  # 255 for each of the six parts of the circle
    share = place - _CENTERS
    np.abs(share, out=share)
    np.subtract(np.int16(510), share[0], out=share[0])
    share[1:] -= np.int16(255)
    np.clip(share, 0, 255, out=share)
    missing = share.view(np.uint16)  # of the chroma, in each color
    missing *= chroma.astype(np.uint16)
    missing += np.uint16(128)  # divided by 255 and rounded, in 16 bits
    missing += missing >> _BYTE
    missing >>= _BYTE
    return (top - missing.astype(np.uint8)).reshape(image.shape)


def hues(pixels: Image) -> tuple[Image, Image, Image]:
    """Of (3, n): largest value, its distance to the smallest, and hue, (n,) each."""
    red, green, blue = pixels
    top = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    chroma = top - low
    middle = red + green + blue - low - top - top  # less the largest, modulo 256
    order = (red >= blue).view(np.uint8)
    order = order + order + (green >= blue).view(np.uint8)
    order = order + order + (red >= green).view(np.uint8)
    place = order.astype(np.int32)
    for part in (chroma, middle):
        place *= np.int32(256)
        place += part.astype(np.int32)
    return top, chroma, np.take(hue_table(), place)


@lru_cache(1)
def hue_table() -> Image:
    """(8 * 256 * 256,) hues by which colors are the larger ones, chroma, and the middle color less the largest.

    Where hue would be a whole number but for rounding, Pillow's rounding decides on which side it is cut off, and that
    shows: hence Pillow's operations in its precision.
    """
    order, chroma, middle = np.ogrid[:8, :256, :256]
    red_green, green_blue, red_blue = order & 1 > 0, order & 2 > 0, order & 4 > 0
    is_red, is_green = red_green & red_blue, ~red_green & green_blue
    # Each third of the circle begins at the largest color and goes on by the difference of the two others.
    start = np.where(is_red, 0, np.where(is_green, 2, 4))
    sign = np.where(np.where(is_red, green_blue, np.where(is_green, ~red_blue, red_green)), 1, -1)
    share = (-middle % 256).astype(np.float32) / np.maximum(chroma, 1).astype(np.float32)
    hue = (start + sign - sign * share.astype(np.float64)).astype(np.float32)
    hue = ((hue.astype(np.float64) / 6 + 1) % 1).astype(np.float32)
    table: Image = np.where(chroma > 0, hue.astype(np.float64) * 255, 0).clip(0, 255).astype(np.uint8).ravel()
    return table


def _gray(pixels: Floats) -> Floats:
    """(3, ...) to whole numbers (1, ...)."""
    gray: Floats = np.matmul(_LUMA, pixels.reshape(3, -1), dtype=np.float32).reshape(1, *pixels.shape[1:])
    gray += _HALF
    return np.floor(gray, out=gray)


def gaussian_blur(image: Image, sigma: float) -> Image:
    """(3, S, S) by Pillow's approximate Gaussian: three box blurs that share the variance, borders repeated."""
    size = image.shape[-1]
    weights, reach = _blur_weights(size, sigma)
    pixels = image.astype(np.float32)
    rows, both = np.empty_like(pixels), np.empty_like(pixels)
    # The weights are a band about the diagonal: blocks of it are multiplied, not the zeros.
    blocks = [(a, min(a + _BLOCK, size)) for a in range(0, size, _BLOCK)]
    for a, b in blocks:
        reads = slice(max(0, a - reach), b + reach)
        np.matmul(weights[a:b, reads], pixels[:, reads], out=rows[:, a:b])
    flat, out = rows.reshape(3 * size, size), both.reshape(3 * size, size)
    across = np.ascontiguousarray(weights.T)
    for a, b in blocks:
        reads = slice(max(0, a - reach), b + reach)
        np.matmul(flat[:, reads], across[reads, a:b], out=out[:, a:b])
    both += _HALF
    return both.astype(np.uint8)


def _blur_weights(size: int, sigma: float) -> tuple[Floats, int]:
    """(size, size) of three passes, and how far from the diagonal they go."""
    kernel = _box_kernel(sigma)
    reach = 3 * (len(kernel) // 2)
    edge = 2 * reach
    if size <= 2 * edge:
        return np.linalg.matrix_power(_one_pass(size, kernel), 3).astype(np.float32), reach
    weights = np.zeros((size, size), np.float32)
    for offset, weight in enumerate(np.convolve(np.convolve(kernel, kernel), kernel), -reach):
        first = max(0, -offset) * size + max(0, offset)
        weights.ravel()[first : first + (size - abs(offset)) * (size + 1) : size + 1] = weight
    corner = np.linalg.matrix_power(_one_pass(edge + reach, kernel), 3)[:edge]
    weights[:edge, : edge + reach] = corner
    weights[-edge:, -edge - reach :] = corner[::-1, ::-1]
    return weights, reach


def _one_pass(size: int, kernel: np.ndarray) -> np.ndarray:
    """(size, size) of one box blur; what lies beyond the border is the pixel at the border."""
    reach = len(kernel) // 2
    spread = np.arange(size)[:, None] + np.arange(-reach, reach + 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], spread.clip(0, size - 1)), kernel)
    return matrix


@lru_cache(256)
def _box_kernel(sigma: float) -> np.ndarray:
    """Box of which three have the variance of the Gaussian: whole taps, and a part of one at either end."""
    variance = sigma**2 / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    width = 2 * (whole + part) + 1
    return np.array([part, *[1.0] * (2 * whole + 1), part]) / width
