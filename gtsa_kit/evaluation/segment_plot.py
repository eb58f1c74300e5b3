"""Figures of the segmentation evaluation: images with truth and predictions, and the IoU of each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.evaluation.support.plots import bar_style, image_grid, shorten, shorten_name, show_image
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.figures import PALETTE, axes_grid, figure_style
from gtsa_kit.models.channel_images import read_input
from gtsa_kit.models.pictures import to_picture
from gtsa_kit.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SIDE = 640
"""Longer side of the drawn images, in pixels."""
MAX_LEGEND = 40
"""Maximum number of classes in a legend; further ones are counted."""
_VOID_COLOR = "#ffffff"
_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY, _VERMILION = PALETTE
# Neighbors in this order differ in lightness, so that most classes that touch can be told apart in gray.
_CLASS_COLORS = (_BLUE, "#f0e442", _VERMILION, _SKY, "#000000", _ORANGE, _GREEN, _PURPLE)


class Example(NamedTuple):
    """A validation image with its truth and predictions."""

    name: str
    image: Image.Image
    labels: np.ndarray
    """True classes, (H, W), `VOID` where there is none."""
    predictions: dict[str, np.ndarray]
    """Predicted classes, (H, W), by name of the report's row."""


class ExampleCollector:
    """Callback of `segment` that keeps the predictions of a few validation images under the first seed."""

    def __init__(
        self, data: SegmentationDataset, val_share: float, count: int = 3, preprocessing: Preprocessing | None = None
    ) -> None:
        """Choose the images.

        Args:
            data: Images and masks.
            val_share: Share of the images that are validated.
            count: Number of images to keep.
            preprocessing: Preprocessing of the models, which says how images are read; None for 8-bit RGB.
        """
        self._data, self._preprocessing = data, preprocessing or Preprocessing()
        indices = np.flatnonzero(data.validation(val_share, 0)).tolist()
        self._predictions: dict[int, dict[str, np.ndarray]] = {i: {} for i in evenly_spaced(indices, count)}

    def __call__(self, row: str, seed: int, index: int, predicted: np.ndarray) -> None:
        """Keep a prediction, smaller if it is large."""
        if seed == 0 and index in self._predictions:
            self._predictions[index][row] = _smaller(predicted.astype(np.uint8))

    def examples(self) -> list[Example]:
        """Read the images and their masks, and return them with the predictions."""
        pairs = [(self._data.pairs[index], predictions) for index, predictions in self._predictions.items()]
        return [
            Example(pair.name, _thumbnail(self._picture(pair.image)), _smaller(self._data.labels(pair)), predictions)
            for pair, predictions in pairs
        ]

    def _picture(self, image: Path) -> Image.Image:
        return to_picture(read_input(image, self._preprocessing), self._preprocessing)


@figure_style()
def draw_predictions(examples: Sequence[Example], classes: Sequence[str]) -> "Figure":
    """Draw a row for each example: the image, its truth and the predictions, with the classes' colors as legend."""
    from matplotlib.patches import Patch

    titles = list(examples[0].predictions)
    figure = image_grid(2 + len(titles), len(examples), width=2.1, height=1.85)
    axes = np.array(figure.axes).reshape(len(examples), -1)
    colors = np.array([_rgb(color) for color in class_colors(len(classes))] + [_rgb(_VOID_COLOR)], np.uint8)
    for row, example in zip(axes, examples, strict=True):
        show_image(row[0], example.image, "image", example.name)
        for axis, title, labels in zip(
            row[1:], ("truth", *titles), (example.labels, *example.predictions.values()), strict=True
        ):
            show_image(axis, Image.fromarray(colors[np.minimum(labels, len(classes))]), title)
            axis.spines[:].set(visible=True, color="#808080", linewidth=0.5)
    handles = [
        Patch(facecolor=color, edgecolor="black", linewidth=0.4, label=shorten(name))
        for name, color in zip(classes, class_colors(len(classes)), strict=True)
    ][:MAX_LEGEND]
    if len(classes) > MAX_LEGEND:
        handles.append(Patch(facecolor="none", label=f"and {len(classes) - MAX_LEGEND} more classes"))
    if any((example.labels == VOID).any() for example in examples):
        handles.append(Patch(facecolor=_VOID_COLOR, edgecolor="black", linewidth=0.4, label="void (truth)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, 2 + len(titles)))
    return figure


@figure_style()
def draw_class_iou(report: Report) -> "Figure":
    """Draw the IoU of each class as bars from 0 to 100%, one for each row of the report; a class absent has none.

    The square at the name of a class has its color in the figure of the predictions.
    """
    classes = list(report.settings["classes"])
    names = list(dict.fromkeys(row["model"] for row in report.rows if "iou" in row))
    figure = axes_grid(1, 1, 6.5, 1.2 + len(classes) * (0.12 + 0.13 * len(names)))
    [axis] = figure.axes
    height, centers = 0.8 / len(names), np.arange(len(classes))
    bars: list[Any] = []
    for index, name in enumerate(names):
        values = [_mean_iou(report, name, label) for label in classes]
        y = centers + (index - (len(names) - 1) / 2) * height
        bars.append(axis.barh(y, values, 0.92 * height, **bar_style(name, index)))
        for position, value in zip(y, values, strict=True):
            if not np.isnan(value):
                axis.annotate(
                    f"{value:.3g}", (value, position), (3, 0), textcoords="offset points", va="center", fontsize=6.5
                )
    _name_classes(axis, classes)
    axis.set(
        xlim=(0, 105), ylim=(len(classes) - 0.4, -0.6), xlabel="IoU, %; no bar: neither in the masks nor predicted"
    )
    axis.set_title(report.title)
    figure.legend(bars, [shorten_name(name) for name in names], loc="outside lower center", ncols=2)
    return figure


def class_colors(count: int) -> list[str]:
    """Return a color for each class: eight that color-blind readers tell apart, then darker and lighter ones of them.

    More than 24 colors cannot be told apart, so they repeat.
    """
    darker = ["#404040" if color == "#000000" else _mix(color, "#000000") for color in _CLASS_COLORS]
    lighter = ["#a0a0a0" if color == "#000000" else _mix(color, "#ffffff") for color in _CLASS_COLORS]
    colors = [*_CLASS_COLORS, *darker, *lighter]
    return [colors[index % len(colors)] for index in range(count)]


def _name_classes(axis: "Axes", classes: Sequence[str]) -> None:
    axis.set_yticks(np.arange(len(classes)), [shorten(name) for name in classes])
    axis.tick_params(axis="y", length=0, pad=14)
    for position, color in enumerate(class_colors(len(classes))):
        axis.annotate(
            "■",
            (0, position),
            (-8, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=color,
            ha="center",
            va="center",
            fontsize=9,
        )


def _mean_iou(report: Report, name: str, label: str) -> float:
    values = [row["iou"][label] for row in report.rows if row["model"] == name]
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else float("nan")


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _mix(color: str, other: str) -> str:
    """Return the color halfway between two."""
    return "#" + "".join(f"{(a + b) // 2:02x}" for a, b in zip(_rgb(color), _rgb(other), strict=True))


def _step(height: int, width: int) -> int:
    return max(1, -(-max(height, width) // MAX_SIDE))


def _smaller(labels: np.ndarray) -> np.ndarray:
    """Return every n-th pixel of a label map, so that its sides are at most `MAX_SIDE`."""
    step = _step(*labels.shape)
    return labels[::step, ::step]


def _thumbnail(image: Image.Image) -> Image.Image:
    step = _step(image.height, image.width)
    return image.reduce(step) if step > 1 else image
