"""What all pictures share: a grid of axes, an image on one of them, the file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def grid(columns: int, rows: int, width: float = 2.2, height: float = 1.6) -> "Figure":
    """A figure whose `axes` go row by row; sizes of a cell in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns, squeeze=False)
    for axis in figure.axes:
        axis.axis("off")
    return figure


def show(axis: "Axes", image: Image.Image, title: str = "") -> None:
    """Draw an image."""
    axis.imshow(np.asarray(image), interpolation="nearest")
    axis.set_title(title, fontsize=8)


def save(figure: "Figure", out: Path) -> None:
    """Write a PNG, into a folder that is made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        figure.savefig(file, format="png", dpi=110)
