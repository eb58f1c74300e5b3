"""Largest rectangle of an image in which every pixel holds data: what views are made from."""

import numpy as np

from gtsa_kit.data.channels.image import ChannelImage, Window

MIN_SIDE = 16
"""Smallest side in pixels of an area that views are made from."""
_BLOCKS = 128
"""Largest number of blocks along a side of the image; the rectangle consists of whole blocks."""


def cut_to_data(image: ChannelImage) -> ChannelImage:
    """Cut an image to the largest rectangle without nodata.

    No pixel without data then reaches a view, a token or a loss.

    Raises:
        ValueError: The rectangle has a side of less than `MIN_SIDE` pixels.
    """
    if image.valid is None:
        return image
    x0, y0, x1, y1 = largest_rectangle(image.valid)
    if min(x1 - x0, y1 - y0) < min(MIN_SIDE, *image.valid.shape):
        raise ValueError(f"the largest area without nodata has {x1 - x0} x {y1 - y0} pixels, too few for a view")
    return ChannelImage(image.pixels[y0:y1, x0:x1], image.layout)


def largest_rectangle(valid: np.ndarray) -> Window:
    """Return the largest rectangle of whole blocks in which all of (H, W) bool is True; an empty one if there is none.

    Blocks are single pixels in images of up to 128 pixels, and larger in larger ones.
    """
    height, width = valid.shape
    step = -(-max(height, width) // _BLOCKS)
    rows, columns = range(0, height, step), range(0, width, step)
    blocks = np.logical_and.reduceat(np.logical_and.reduceat(valid, rows, axis=0), columns, axis=1)
    best, area = Window(0, 0, 0, 0), 0
    depths = np.zeros(blocks.shape[1], np.int64)
    for row, is_valid in enumerate(blocks):
        depths = np.where(is_valid, depths + 1, 0)
        left, top, right, size = _largest_below(depths.tolist())
        if size > area:
            area, best = size, Window(left, row + 1 - top, right, row + 1)
    x1, y1 = min(best.x1 * step, width), min(best.y1 * step, height)
    return Window(best.x0 * step, best.y0 * step, x1, y1)


def _largest_below(depths: list[int]) -> tuple[int, int, int, int]:
    """Return left, height, right and area of the largest rectangle below a skyline."""
    best, stack = (0, 0, 0, 0), [(-1, 0)]  # left end and height of rising steps
    for position, depth in enumerate([*depths, 0]):
        start = position
        while len(stack) > 1 and stack[-1][1] >= depth:
            start, height = stack.pop()
            area = height * (position - start)
            if area > best[3]:
                best = (start, height, position, area)
        stack.append((start, depth))
    return best
