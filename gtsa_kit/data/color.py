"""Color jitter, grayscale and blur of small images by the arithmetic of Pillow, many pixels at a time.

Images are (3, n) or (3, S, S) uint8. All functions but hue and blur give Pillow's values bit for bit, because they
compute in float32 and truncate as it does. Hue is within one level (of 255) of Pillow, and blur within three.
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
_CENTERS = np.array([[765], [510], [1020]], np.int16)  # hue of cyan for red, of green and of blue, times six
_BLOCK = 16  # rows or columns that the blur computes at a time


def adjust_brightness(image: Image, factor: float) -> Image:
    """Multiply all values by a factor."""
    return _stretch(image.astype(np.float32), None, factor)


def adjust_contrast(image: Image, factor: float) -> Image:
    """Multiply the differences from the mean gray by a factor."""
    pixels = image.astype(np.float32)
    mean = _gray(pixels).sum(-1).sum(dtype=np.float64) / (image.size // 3)
    return _stretch(pixels, np.float32(math.floor(mean + 0.5)), factor)


def adjust_saturation(image: Image, factor: float) -> Image:
    """Multiply the differences from each pixel's gray by a factor."""
    pixels = image.astype(np.float32)
    return _stretch(pixels, _gray(pixels), factor)


def _stretch(pixels: Floats, middle: Floats | np.float32 | None, factor: float) -> Image:
    """Multiply the differences from the middle (None: from black) by a factor, in place."""
    if middle is not None:
        pixels -= middle
    pixels *= np.float32(factor)
    if middle is not None:
        pixels += middle
    if factor > 1:  # otherwise nothing leaves the range
        np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8)


def to_grayscale(image: Image) -> Image:
    """Return three equal channels of gray."""
    return np.repeat(_gray(image.astype(np.float32)).astype(np.uint8), 3, axis=0)


def adjust_hue(image: Image, factor: float) -> Image:
    """Shift the hue by a fraction of the circle, -0.5 to 0.5.

    The hue is rounded to 8 bits as in Pillow, because this rounding can change a color by six levels.
    """
    top, chroma, hue = hues(image.reshape(3, -1))
    hue += np.int32(factor * 255).astype(np.uint8)  # wraps around the circle
    position = hue.astype(np.int16)
    position *= np.int16(6)  # 255 for each sixth of the circle
    distance = position - _CENTERS
    np.abs(distance, out=distance)
    np.subtract(np.int16(510), distance[0], out=distance[0])
    distance[1:] -= np.int16(255)
    np.clip(distance, 0, 255, out=distance)
    missing = distance.view(np.uint16)  # the part of the chroma that is subtracted from each channel
    missing *= chroma.astype(np.uint16)
    missing += np.uint16(128)  # divided by 255 and rounded, in 16 bits
    missing += missing >> _BYTE
    missing >>= _BYTE
    return (top - missing.astype(np.uint8)).reshape(image.shape)


def hues(pixels: Image) -> tuple[Image, Image, Image]:
    """Return the largest channel of (3, n) pixels, its difference from the smallest, and the hue, (n,) each."""
    red, green, blue = pixels
    top = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    chroma = top - low
    middle = red + green + blue - low - top - top  # middle channel minus the largest, modulo 256
    order = (red >= blue).view(np.uint8)
    order = order + order + (green >= blue).view(np.uint8)
    order = order + order + (red >= green).view(np.uint8)
    index = order.astype(np.int32)
    for part in (chroma, middle):
        index *= np.int32(256)
        index += part.astype(np.int32)
    return top, chroma, np.take(hue_table(), index)


@lru_cache(1)
def hue_table() -> Image:
    """Return the hues (8 * 256 * 256,) by order of the channels, chroma, and middle channel minus the largest.

    The table is computed by Pillow's operations in Pillow's precision: where the exact hue is a whole number, rounding
    errors decide whether it is truncated to the next lower one.
    """
    order, chroma, middle = np.ogrid[:8, :256, :256]
    red_green, green_blue, red_blue = order & 1 > 0, order & 2 > 0, order & 4 > 0
    is_red, is_green = red_green & red_blue, ~red_green & green_blue
    # Hue starts at the largest channel's third of the circle and adds the difference of the two other channels.
    start = np.where(is_red, 0, np.where(is_green, 2, 4))
    sign = np.where(np.where(is_red, green_blue, np.where(is_green, ~red_blue, red_green)), 1, -1)
    ratio = (-middle % 256).astype(np.float32) / np.maximum(chroma, 1).astype(np.float32)
    hue = (start + sign - sign * ratio.astype(np.float64)).astype(np.float32)
    hue = ((hue.astype(np.float64) / 6 + 1) % 1).astype(np.float32)
    table: Image = np.where(chroma > 0, hue.astype(np.float64) * 255, 0).clip(0, 255).astype(np.uint8).ravel()
    return table


def _gray(pixels: Floats) -> Floats:
    """Return the gray of pixels (3, ...) as whole numbers (1, ...)."""
    gray: Floats = np.matmul(_LUMA, pixels.reshape(3, -1), dtype=np.float32).reshape(1, *pixels.shape[1:])
    gray += _HALF
    return np.floor(gray, out=gray)


def gaussian_blur(image: Image, sigma: float) -> Image:
    """Blur a (3, S, S) image by Pillow's approximate Gaussian: three box blurs, with border pixels repeated."""
    blurred = blur(image.astype(np.float32), sigma)
    blurred += _HALF
    return blurred.astype(np.uint8)


def blur(pixels: Floats, sigma: float) -> Floats:
    """Blur (N, S, S) values of any range as `gaussian_blur` does, without rounding."""
    count, size = pixels.shape[0], pixels.shape[-1]
    weights, reach = _blur_weights(size, sigma)
    rows, both = np.empty_like(pixels), np.empty_like(pixels)
    # The weight matrix is banded; only the blocks of the band are multiplied.
    blocks = [(a, min(a + _BLOCK, size)) for a in range(0, size, _BLOCK)]
    for a, b in blocks:
        reads = slice(max(0, a - reach), b + reach)
        np.matmul(weights[a:b, reads], pixels[:, reads], out=rows[:, a:b])
    flat, out = rows.reshape(count * size, size), both.reshape(count * size, size)
    across = np.ascontiguousarray(weights.T)
    for a, b in blocks:
        reads = slice(max(0, a - reach), b + reach)
        np.matmul(flat[:, reads], across[reads, a:b], out=out[:, a:b])
    return both


def _blur_weights(size: int, sigma: float) -> tuple[Floats, int]:
    """Return the weights (size, size) of the three passes together, and the half width of their band."""
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
    """Return the weights (size, size) of one box blur, with border pixels repeated."""
    reach = len(kernel) // 2
    columns = np.arange(size)[:, None] + np.arange(-reach, reach + 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], columns.clip(0, size - 1)), kernel)
    return matrix


@lru_cache(256)
def _box_kernel(sigma: float) -> np.ndarray:
    """Return the box kernel with a third of the Gaussian's variance; its two outer taps are fractional."""
    variance = sigma**2 / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    width = 2 * (whole + part) + 1
    return np.array([part, *[1.0] * (2 * whole + 1), part]) / width
