"""Figure of predictions: validation images beside truth and prediction, with the colors of the classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from gtsa_kit.data.label_map import VOID
from gtsa_kit.figures import RIGHT, WRONG, axes_grid, figure_style, save_figure
from gtsa_kit.models.task_spec import Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SIDE = 480
"""Longer side of the drawn images, in pixels."""
MAX_LEGEND = 40
"""Largest number of classes in the legend; further ones are counted."""
MAX_NAME = 28
"""Longest text at an image, in characters."""
VOID_COLOR = (255, 255, 255)


class Example(NamedTuple):
    """Validation image with its truth and predictions."""

    name: str
    image: Image.Image
    truth: Any
    """Class numbers: (H, W) uint8, or () int64; or `Objects`."""
    predictions: dict[str, Any]
    """Predicted class numbers, or detections, by name of the column."""


def save_predictions(figure: "Figure", path: Path) -> None:
    """Write predictions.png."""
    save_figure(figure, path)


@figure_style()
def draw_masks(examples: Sequence[Example], labels: Sequence[Label]) -> "Figure":
    """Draw a row for each image: the image, its truth, predictions; the legend names the classes."""
    from matplotlib.patches import Patch

    columns = list(examples[0].predictions)
    figure = axes_grid(2 + len(columns), len(examples), 2.4, 2.0)
    colors = np.full((VOID + 1, 3), VOID_COLOR, np.uint8)
    colors[: len(labels)] = [label.color for label in labels]
    for row, example in enumerate(examples):
        axes = figure.axes[row * (2 + len(columns)) :]
        show_image(axes[0], example.image, "image" if not row else "", example.name)
        masks = {"truth": example.truth, **example.predictions}
        for axis, (title, mask) in zip(axes[1:], masks.items(), strict=False):
            show_image(axis, Image.fromarray(colors[mask]), "" if row else title)
    patches = [
        Patch(facecolor=f"#{bytes(label.color).hex()}", edgecolor="#808080", label=short_text(label.name))
        for label in labels[:MAX_LEGEND]
    ]
    if len(labels) > MAX_LEGEND:
        patches.append(Patch(facecolor="none", label=f"and {len(labels) - MAX_LEGEND} more classes"))
    if any((example.truth == VOID).any() for example in examples):
        patches.append(Patch(facecolor="white", edgecolor="#808080", label="void (truth)"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, 2 * (1 + len(columns))))
    return figure


@figure_style()
def draw_classes(examples: Sequence[Example], labels: Sequence[Label]) -> "Figure":
    """Draw the images with their predicted class above and, if it is wrong, the true one below."""
    columns = min(4, len(examples))
    figure = axes_grid(columns, -(-len(examples) // columns), 2.0, 2.2)
    for axis, example in zip(figure.axes, examples, strict=False):
        predicted, true = int(list(example.predictions.values())[-1]), int(example.truth)
        below = example.name if predicted == true else f"true: {labels[true].name}"
        show_image(axis, example.image, labels[predicted].name, below)
        axis.title.set_color(RIGHT if predicted == true else WRONG)
    for unused in figure.axes[len(examples) :]:
        unused.remove()
    return figure


def show_image(axis: "Axes", image: Image.Image, title: str, below: str = "") -> tuple[int, int]:
    """Draw an image, smaller if it is large; return its width and height in the figure's pixels."""
    scale = min(1.0, MAX_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    axis.imshow(np.asarray(image.resize(size, Image.Resampling.NEAREST)), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="#808080", linewidth=0.5)
    axis.set_title(short_text(title), fontsize=8)
    axis.set_xlabel(short_text(below), fontsize=7, labelpad=2)
    return size


def short_text(text: str) -> str:
    """Return a printable text; the end of a path identifies an image better."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return line if len(line) <= MAX_NAME else "…" + line[1 - MAX_NAME :]
