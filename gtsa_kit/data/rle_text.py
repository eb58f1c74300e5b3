"""Run lengths of masks in COCO's compressed text: written, and read with all checks before a mask is drawn."""

import numpy as np

_BITS = 5
"""Bits of a number in one character; the next one says whether more characters follow."""


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


def decode_counts(text: bytes) -> np.ndarray:
    """Return the run lengths (R,) int64 of compressed text: alternately of False and True, False first.

    Raises:
        ValueError: The text is none.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("run lengths that are damaged")
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    position = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if position.max() > 7:  # 40 bits: no image has more pixels
        raise ValueError("run lengths that are damaged")
    values = np.add.reduceat((codes & 31) << _BITS * position, first)
    negative = (codes[last] & 16) != 0
    values -= negative.astype(np.int64) << _BITS * (position[last] + 1)
    # From the fourth on, a number is the difference to the one two before.
    for parity in (1, 2):
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def check_counts(counts: np.ndarray, size: tuple[int, int]) -> None:
    """Raise `ValueError` if run lengths are not those of a mask of a size (height, width)."""
    if (len(counts) and counts.min() < 0) or int(counts.sum()) != size[0] * size[1]:
        raise ValueError(f"run lengths that are not those of {size[1]} x {size[0]} pixels")


def mask_of_counts(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of run lengths down the columns, alternately of False and True, False first."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size, order="F")
