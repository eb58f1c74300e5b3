"""Labeled images that any model can learn: two colors each, which meet at the border of two patches."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[210, 40, 40], [40, 180, 60], [30, 60, 220]], np.uint8)


def write_halves(folder: Path, count: int, size: int = 64) -> Path:
    """Write the same images, of two halves, with index masks, to train/ and val/."""
    for part in ("train", "val"):
        for index in range(count):
            mask = np.zeros((size, size), np.uint8)
            mask[:, : size // 2], mask[:, size // 2 :] = index % 3, (index + 1 + index // 3) % 3
            for kind, pixels in (("images", COLORS[mask]), ("masks", mask)):
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / part / kind / f"{index}.png")
    return folder
