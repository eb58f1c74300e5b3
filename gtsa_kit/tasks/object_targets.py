"""Objects to learn in a version of an image: their boxes and masks at the size of the input."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gtsa_kit.data.instances import Instances
from gtsa_kit.tasks.views import View, pixel_box

MIN_SIDE = 1.0
"""Side in pixels of the input that the visible part of an object has at least."""


def object_targets(view: View, objects: Instances, width: int, height: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the targets of `DetectorHead.losses` for a version of an image.

    Regions of several objects, and objects outside of the version, are left out.

    Args:
        view: Version of the image.
        objects: Objects of the image.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        size: (height, width) of the input, which shows the whole version.
    """
    left, top, right, bottom = pixel_box(view, width, height)
    cut = np.array([right - left, bottom - top], np.float32)
    boxes = (objects.boxes - np.tile(np.array([left, top], np.float32), 2)).clip(0, np.tile(cut, 2))
    if view.mirrored:
        boxes[:, [0, 2]] = cut[0] - boxes[:, [2, 0]]
    boxes *= np.tile(np.array(size[::-1], np.float32) / cut, 2)
    kept = ~objects.crowd & (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
    masks = None
    if objects.masks is not None:
        masks = _resized(objects.masks[kept, top:bottom, left:right], view.mirrored, size)
        visible = masks.flatten(1).any(1).bool()
        masks, kept[kept] = masks[visible], visible.numpy()
    targets = {"boxes": torch.from_numpy(boxes[kept]), "labels": torch.from_numpy(objects.classes[kept] + 1)}
    return targets if masks is None else {**targets, "masks": masks}


def _resized(masks: np.ndarray, mirrored: bool, size: tuple[int, int]) -> Tensor:
    """Return masks (N, h, w) at a size, sampled at the centers of its pixels, (N, H, W) uint8."""
    if not len(masks):
        return torch.zeros(0, *size, dtype=torch.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(masks[..., ::-1] if mirrored else masks).view(np.uint8))
    return F.interpolate(pixels[None], size, mode="nearest-exact")[0]
