"""EXIF orientation of boxes and masks that were drawn on the stored pixels of an image."""

import numpy as np

# EXIF orientation -> whether x and y are exchanged, and then whether x, and y, are counted from the other side.
_UPRIGHT = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def orient_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Return a mask (H, W) of stored pixels on the upright image."""
    exchange, flip_x, flip_y = _UPRIGHT[orientation]
    mask = mask.T if exchange else mask
    mask = mask[:, ::-1] if flip_x else mask
    return mask[::-1] if flip_y else mask


def orient_boxes(boxes: np.ndarray, orientation: int, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return boxes x, y, width, height (N, 4) of stored pixels on upright images of these widths and heights, (N,)."""
    exchange, flip_x, flip_y = _UPRIGHT[orientation]
    x, y, w, h = boxes[:, [1, 0, 3, 2] if exchange else [0, 1, 2, 3]].T
    return np.stack([width - x - w if flip_x else x, height - y - h if flip_y else y, w, h], 1)
