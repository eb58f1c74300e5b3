"""Figure of detections: validation images beside their true and their predicted objects."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from gtsa_kit.data.rle_text import decode_counts, mask_of_counts
from gtsa_kit.figures import axes_grid, figure_style
from gtsa_kit.models.task_spec import Label
from gtsa_kit.tasks.detections import ImageDetections
from gtsa_kit.tasks.object_data import Objects
from gtsa_kit.tasks.pictures import Example, short_text, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_SCORE = 0.3
"""Lowest score of the detections in the figure."""
MAX_OBJECTS = 30
"""Largest number of objects drawn in an image, those of the highest score."""
OPACITY = 0.5
"""Opacity of masks."""


class DrawnObject(NamedTuple):
    """Object of an image to draw."""

    box: Sequence[float]
    """Corners x0, y0, x1, y1 in pixels of the image."""
    label: Label
    text: str
    mask: np.ndarray | None
    """Pixels of the object (H, W) bool."""


@figure_style()
def draw_objects(examples: Sequence[Example], labels: Sequence[Label]) -> "Figure":
    """Draw a row for each image: the image, its true objects, and those that were predicted."""
    columns = list(examples[0].predictions)
    figure = axes_grid(2 + len(columns), len(examples), 2.4, 2.0)
    for row, example in enumerate(examples):
        axes = figure.axes[row * (2 + len(columns)) :]
        show_image(axes[0], example.image, "" if row else "image", example.name)
        parts: dict[str, Iterator[DrawnObject]] = {"truth": true_objects(example.truth, labels)}
        for name, detections in example.predictions.items():
            parts[f"{name}, score from {MIN_SCORE}"] = predicted_objects(detections, labels)
        for axis, (title, objects) in zip(axes[1:], parts.items(), strict=False):
            _show_objects(axis, example.image, "" if row else title, list(objects))
    return figure


def true_objects(truth: Objects, labels: Sequence[Label]) -> Iterator[DrawnObject]:
    """Yield the true objects of an image, without regions of several objects."""
    for item in truth.annotations:
        x, y, width, height = item["bbox"]
        label = labels[item["category_id"]]
        mask = item.get("segmentation")
        pixels = None if mask is None else mask_of_counts(decode_counts(mask["counts"]), truth.size)
        if not item["iscrowd"]:
            yield DrawnObject((x, y, x + width, y + height), label, label.name, pixels)


def predicted_objects(detections: ImageDetections, labels: Sequence[Label]) -> Iterator[DrawnObject]:
    """Yield the detections from `MIN_SCORE` on."""
    for i in np.flatnonzero(detections.scores >= MIN_SCORE)[:MAX_OBJECTS].tolist():
        label = labels[detections.classes[i]]
        mask = None if detections.masks is None else detections.mask(i)
        yield DrawnObject(detections.boxes[i].tolist(), label, f"{label.name} {detections.scores[i]:.0%}", mask)


def _show_objects(axis: "Axes", image: Image.Image, title: str, objects: Sequence[DrawnObject]) -> None:
    """Draw an image with masks, boxes and names in the colors of the classes."""
    from matplotlib.patches import Rectangle

    pixels = np.asarray(image, np.float32).copy()
    for item in objects:
        if item.mask is not None:
            pixels[item.mask] += OPACITY * (np.array(item.label.color, np.float32) - pixels[item.mask])
    drawn = show_image(axis, Image.fromarray(pixels.round().astype(np.uint8)), title)
    scale = drawn[0] / image.width, drawn[1] / image.height
    for item in objects:
        left, top, right, bottom = (value * scale[i % 2] - 0.5 for i, value in enumerate(item.box))
        color: Any = [value / 255 for value in item.label.color]
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=1))
        frame = {"facecolor": color, "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        ink = "black" if sum(item.label.color) > 380 else "white"
        axis.text(left, top, short_text(item.text), fontsize=4, color=ink, va="bottom", bbox=frame, clip_on=True)
