"""Detections of large images by sliding windows at the image's own resolution.

Windows overlap, so that an object is whole in one of them unless it is larger than the overlap. Larger ones are found
in the whole image, reduced to the size of a window. An object of several windows is found several times: detections of
one class that overlap are merged into the best one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image

from gtsa_kit.models.preprocessing import resize_channels
from gtsa_kit.tasks.detections import ImageDetections, to_detections
from gtsa_kit.tasks.predictor import Predictor
from gtsa_kit.tasks.tiles import Tiling, WindowRunner, window_spans

MERGE_IOU: Final = 0.5
"""IoU above which a detection replaces another one of its class."""
COVERED: Final = 0.5
"""Share of a box at the edge of a window above which another window's box covers it."""
OVERVIEW: Final = -1
"""Number of the reduced whole image among the windows."""
EDGE: Final = 8
"""Distance in pixels to an edge inside of the image within which a box may be cut off by its window."""


def tiled_detections(
    image: np.ndarray, predictor: Predictor, tiling: Tiling, batch_size: int, threshold: float
) -> ImageDetections:
    """Return the detections of an image.

    Args:
        image: (H, W, 3) uint8, or (H, W, N) float32. A side below the tile is padded with its edge to the next size
            that the model takes.
        predictor: The model, which detects objects.
        tiling: Size and overlap of the windows.
        batch_size: Windows in one call of the model, at most.
        threshold: Lowest score.

    Raises:
        ImageError: The outputs are not finite.
    """
    height, width = image.shape[:2]
    rows, columns = (window_spans(n, tiling, predictor.manifest, a) for n, a in ((height, "height"), (width, "width")))
    size, run = (rows[0][1] - rows[0][0], columns[0][1] - columns[0][0]), WindowRunner(image, predictor, batch_size)
    parts = [
        _in_image(to_detections(output, size, size, threshold), (left, top), (height, width))
        for top, bottom in rows
        for left, output in run((top, bottom), columns)
    ]
    windows = np.repeat(np.arange(len(parts)), [len(part) for part, _ in parts])
    if len(parts) > 1:
        large, pixel = _large_detections(image, run, size, tiling.overlap, threshold)
        seen = _join([part for part, _ in parts], (height, width))
        large = large.select(~_are_seen(large, seen, 2 * pixel))
        parts.append((large, np.zeros(len(large), bool)))
        windows = np.append(windows, np.full(len(large), OVERVIEW))
    joined = _join([part for part, _ in parts], (height, width))
    return joined.select(merge(joined, np.concatenate([cut for _, cut in parts]), windows))


def merge(detections: ImageDetections, cut: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return the indices of the detections that stay, the highest score first.

    The best box of a class replaces those that overlap with it by more than `MERGE_IOU`, and those that are cut off by
    their window and lie in it by more than `COVERED`. Whole boxes come first, by their scores; then those of the
    reduced image, which are coarser; then those cut off, the largest first: it shows the most of its object.

    Args:
        detections: Detections of all windows.
        cut: True for a box that may be cut off by its window, (N,) boolean.
        windows: Number of each detection's window, (N,); `OVERVIEW` for the reduced image.
    """
    boxes, kept = detections.boxes, []
    extent = _areas(boxes[:, :2], boxes[:, 2:])
    order = np.lexsort((-detections.scores, -extent * cut, windows == OVERVIEW, cut))
    for number in np.unique(detections.classes):
        rest = order[detections.classes[order] == number]
        while rest.size:
            best, rest = rest[0], rest[1:]
            kept.append(best)
            shared = _areas(np.maximum(boxes[rest, :2], boxes[best, :2]), np.minimum(boxes[rest, 2:], boxes[best, 2:]))
            covered = cut[rest] & (windows[rest] != windows[best]) & (shared > COVERED * extent[rest])
            rest = rest[~(covered | (shared > MERGE_IOU * (extent[rest] + extent[best] - shared)))]
    indices = np.array(kept, np.intp)
    return indices[np.lexsort((indices, -detections.scores[indices]))]


def _large_detections(
    image: np.ndarray, run: WindowRunner, size: tuple[int, int], overlap: int, threshold: float
) -> tuple[ImageDetections, float]:
    """Return the detections of the reduced image with a side above the overlap: others are whole in a window.

    The second result is the side of a pixel of the reduced image in pixels of the image.

    Args:
        image: (H, W, 3) uint8.
        run: The model on the image.
        size: (height, width) of a window, into which the image is reduced with its aspect ratio.
        overlap: Overlap of the windows in pixels.
        threshold: Lowest score.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    if run.preprocessing.is_rgb:
        reduced = np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.BILINEAR))
    else:
        reduced = resize_channels(image, small, "bilinear, antialiased")
    ((_, output),) = replace(run, image=reduced)((0, size[0]), [(0, size[1])])
    part, _ = _in_image(to_detections(output, size, size, threshold), (0, 0), small)
    sides = np.tile(np.array([width / small[1], height / small[0]], np.float32), 2)
    part = replace(part, size=(height, width), boxes=part.boxes * sides)
    return part.select((part.boxes[:, 2:] - part.boxes[:, :2] > overlap).any(axis=1)), 1 / scale


def _are_seen(large: ImageDetections, seen: ImageDetections, tolerance: float) -> np.ndarray:
    """Return which detections of the reduced image (N,) are one of a window too, at a distance of `tolerance` pixels.

    Those of windows are more exact, even near an edge.
    """
    distance = np.abs(large.boxes[:, None] - seen.boxes[None]).max(axis=2)
    same = large.classes[:, None] == seen.classes[None]
    return np.asarray((same & (distance <= tolerance)).any(axis=1))


def _in_image(
    part: ImageDetections, offset: tuple[int, int], size: tuple[int, int]
) -> tuple[ImageDetections, np.ndarray]:
    """Return the detections of a window in pixels of the image, and which of them may be cut off by the window.

    Args:
        part: Detections in pixels of the window.
        offset: First column and row of the window.
        size: (height, width) of the image.
    """
    corner, limit = np.array(offset * 2, np.float32), np.array((*size[::-1], *size[::-1]), np.float32)
    sides = np.array((0, 0, *part.size[::-1]), np.float32)
    inside = np.concatenate([corner[:2] > 0, (corner + sides)[2:] < limit[2:]])
    cut = ((np.abs(part.boxes - sides) <= EDGE) & inside).any(axis=1)
    boxes = np.clip(part.boxes + corner, 0, limit)
    kept = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))  # the others lie in the padding
    return replace(part, size=size, boxes=boxes).select(kept), cut[kept]


def _join(parts: Sequence[ImageDetections], size: tuple[int, int]) -> ImageDetections:
    masks = None if any(part.masks is None for part in parts) else np.concatenate([part.masks for part in parts])
    boxes, scores, classes = (
        np.concatenate([getattr(x, name) for x in parts]) for name in ("boxes", "scores", "classes")
    )
    return ImageDetections(size, boxes, scores, classes, masks)


def _areas(corners: np.ndarray, opposite: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(opposite - corners, 0, None).prod(axis=-1))
