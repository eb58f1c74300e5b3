"""Outputs of encoders and task models: torch tensors from modules, numpy arrays from runners."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Features(NamedTuple):
    """Features of a batch with patches of p x p pixels: torch tensors from the encoder, numpy arrays from runners."""

    embedding: Any
    """One vector an image, (B, D): the mean of the patch tokens unless the architecture says otherwise."""
    feature_map: Any
    """Patch tokens after the final norm on their grid, (B, D, H/p, W/p)."""
    layers: Mapping[int, Any] = {}
    """Patch tokens of selected blocks after the final norm, (B, D, H/p, W/p) by block index."""
    class_token: Any = None
    """Class token after the final norm, (B, D); None without one."""


class TaskOutput(NamedTuple):
    """Outputs of a task model for a batch of images of H x W pixels: numpy arrays from runners."""

    logits: Any = None
    """Logits (B, K, H, W) float32 of pixels, (B, K) of classes; None for a graph that gives the mask alone, and for
    detectors."""
    mask: Any = None
    """Class numbers of pixels, (B, H, W) uint8; None for a graph that gives logits, and for detectors."""
    boxes: Any = None
    """Boxes (B, N, 4) float32 of detections, x0, y0, x1, y1 in pixels of the input; None for other tasks."""
    scores: Any = None
    """Scores (B, N) float32 of detections, 0 in a slot that is not used; None for other tasks."""
    labels: Any = None
    """Class numbers (B, N) int32 of detections; None for other tasks."""
    masks: Any = None
    """Masks (B, N, 28, 28) float32 inside the boxes of detections; None for other tasks, and for boxes alone."""
