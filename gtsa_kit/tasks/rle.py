"""Run-length encoding of masks in COCO's compressed format, which pycocotools decodes."""

import numpy as np

from gtsa_kit.data.rle_text import compress_counts, run_lengths


def encode_rle(mask: np.ndarray) -> dict[str, object]:
    """Return a mask as {"size": [height, width], "counts": text}.

    Args:
        mask: (H, W) boolean.
    """
    return {"size": list(mask.shape), "counts": compress_counts(run_lengths(mask))}


def bounding_box(mask: np.ndarray) -> list[int]:
    """Return [x, y, width, height] of the True pixels of a mask (H, W) that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
