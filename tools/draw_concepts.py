"""Draw the picture of docs/concepts.md: views of an image, their rotations and their overlap, by the code of training.

.venv/bin/python tools/draw_concepts.py IMAGE docs/concepts.png
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import Views, make_views
from gtsa_kit.data.image_io import open_image
from gtsa_kit.figures import PALETTE, axes_grid, figure_style, save_figure
from gtsa_kit.geometry import intersect, rotate_boxes, to_crop_coordinates

SEED = 10
NAMES = ("global view 1 (student)", "global view 2 (teacher)", "local view 1", "local view 2")


def sample_views(pixels: np.ndarray) -> Views:
    """Return two global and two local views without color changes, which hide nothing here."""
    config = ViewsConfig(local_crops=2, jitter_p=0.0)
    plain = config.model_copy(update={name: 0.0 for name in type(config).model_fields if name.endswith("_p")})
    return make_views(torch.from_numpy(pixels.copy()).permute(2, 0, 1), plain, torch.Generator().manual_seed(SEED))


def draw_box(axes: Any, box: Any, color: str, fill: bool = False) -> None:
    """Draw a box x0, y0, x1, y1, hatched if it is an overlap."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = map(float, box)
    hatch = "///" if fill else None
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=2, hatch=hatch))


@figure_style()
def draw(pixels: np.ndarray) -> Any:
    """Return the figure: the image with its crops, and each view with the overlap of the two global ones."""
    views = sample_views(pixels)
    overlap = intersect(views.boxes[0], views.boxes[1])
    figure = axes_grid(5, 1, width=2.4, height=2.6)
    whole, *others = figure.axes
    whole.imshow(pixels)
    whole.set_title("crops of one image")
    for index, box in enumerate(views.boxes):
        draw_box(whole, box, PALETTE[index])
    draw_box(whole, overlap, "white", fill=True)
    images = [*views.global_images, *views.local_images]
    for index, (axes, image) in enumerate(zip(others, images, strict=True)):
        turn = int(views.rotations[index])
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(f"{NAMES[index]}\nrotated by {90 * turn} degrees", color=PALETTE[index])
        if index < 2:
            inside = rotate_boxes(to_crop_coordinates(overlap, views.boxes[index]), views.rotations[index])
            draw_box(axes, inside * image.shape[-1], "white", fill=True)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    save_figure(draw(np.asarray(open_image(sys.argv[1]))), Path(sys.argv[2]))
