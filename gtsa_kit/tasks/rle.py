"""Run-length encoding of masks in COCO's compressed format, which pycocotools decodes."""

import numpy as np

_BITS = 5
"""Bits of a character; the next one says whether more characters follow."""


def encode_rle(mask: np.ndarray) -> dict[str, object]:
    """Return a mask as {"size": [height, width], "counts": text}.

    Args:
        mask: (H, W) boolean.
    """
    return {"size": list(mask.shape), "counts": compress_counts(run_lengths(mask))}


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return the lengths of runs down the columns of a boolean mask, alternately of False and True, False first."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if pixels[0] else lengths


def compress_counts(counts: list[int]) -> str:
    """Return run lengths as text: from the third on, each as its difference to the one two before.

    A number is written in groups of five bits, the lowest first, each as one character from "0" on.
    """
    characters = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = value & (1 << _BITS) - 1
            value >>= _BITS
            more = value != (-1 if bits & 1 << _BITS - 1 else 0)
            characters.append(chr(48 + (bits | more << _BITS)))
    return "".join(characters)


def bounding_box(mask: np.ndarray) -> list[int]:
    """Return [x, y, width, height] of the True pixels of a mask (H, W) that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
