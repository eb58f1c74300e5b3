"""Run-length encoding of masks in COCO's compressed format, which pycocotools decodes."""

import numpy as np

from gtsa_kit.data.rle_text import compress_counts, run_lengths


def encode_rle(mask: np.ndarray) -> dict[str, object]:
    """Return a mask as {"size": [height, width], "counts": text}.

    Args:
        mask: (H, W) boolean.
    """
    return {"size": list(mask.shape), "counts": compress_counts(run_lengths(mask))}


def encode_part(part: np.ndarray, x: int, y: int, size: tuple[int, int]) -> dict[str, object]:
    """Return a mask that is False outside of a part, as `encode_rle` does, in the memory of the columns of the part.

    Args:
        part: (h, w) boolean.
        x: First column of the part.
        y: First row of the part.
        size: (height, width) of the mask.
    """
    height, width = size
    if not part.any():
        return {"size": [height, width], "counts": compress_counts([height * width])}
    columns = np.zeros((height, part.shape[1]), bool)
    columns[y : y + part.shape[0]] = part
    lengths = run_lengths(columns)
    lengths[0] += x * height
    rest = (width - x - part.shape[1]) * height
    if len(lengths) % 2:
        lengths[-1] += rest
    elif rest:
        lengths.append(rest)
    return {"size": [height, width], "counts": compress_counts(lengths)}


def bounding_box(mask: np.ndarray) -> list[int]:
    """Return [x, y, width, height] of the True pixels of a mask (H, W) that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
