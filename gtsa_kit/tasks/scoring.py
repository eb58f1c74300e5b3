"""Scores of a model on labeled images: each image's logits or detections are compared with its label.

Training, `gtsa eval` and the score gate of exported files add their outputs here, so that their scores are the same.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from gtsa_kit.models.task_spec import Task, TaskSpec
from gtsa_kit.tasks.detect_scoring import DetectScorer
from gtsa_kit.tasks.masks import class_numbers
from gtsa_kit.tasks.metrics import classify_scores, confusion, segment_scores

MAIN_SCORE: Final[dict[Task, str]] = {"segment": "miou", "classify": "top1", "detect": "ap"}
"""Score of each task by which the best model is chosen; of detectors with masks it is `MASK_SCORE`."""
MASK_SCORE: Final = "mask_ap"
BY_CLASS: Final = ("iou", "ap_by_class", "mask_ap_by_class")
"""Scores that are lists by class number."""


class Scorer(Protocol):
    """Sum over images, from which scores are computed."""

    def add(self, logits: Any, label: Any) -> Any:
        """Add an image; return its prediction: class numbers in the form of the label, or detections.

        Args:
            logits: Logits of the image: (K, h, w) for an input that shows the whole image, or (K,); or detections.
            label: True class numbers: (H, W) uint8 at the image's own size, or () int64; or `Objects`.
        """

    def merge(self, other: Any) -> None:
        """Add the images of another scorer of the same task."""

    def scores(self) -> dict[str, Any]:
        """Return the scores in percent, NaN where there is none."""


class SegmentScorer:
    """Confusion matrix of pixels."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)
        self.images = 0

    def add(self, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Add the logits (K, h, w) of an image with the label (H, W); return the (H, W) uint8 class numbers."""
        predicted = class_numbers(logits, (label.shape[0], label.shape[1]))
        self.add_mask(predicted, label)
        return predicted

    def add_mask(self, predicted: np.ndarray, label: np.ndarray) -> None:
        """Add predicted class numbers (H, W) of an image."""
        self.counts += confusion(label, predicted, len(self.counts))
        self.images += 1

    def merge(self, other: "SegmentScorer") -> None:
        """Add the images of another scorer."""
        self.counts += other.counts
        self.images += other.images

    def scores(self) -> dict[str, Any]:
        """Return `segment_scores`."""
        return dict(segment_scores(self.counts))


class ClassifyScorer:
    """Logits and labels of images."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.logits: list[np.ndarray] = []
        self.truth: list[int] = []

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.truth)

    def add(self, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Add the logits (K,) of an image with the label (); return the () predicted class number."""
        self.logits.append(np.asarray(logits, np.float32))
        self.truth.append(int(label))
        return np.asarray(int(np.argmax(logits)))

    def merge(self, other: "ClassifyScorer") -> None:
        """Add the images of another scorer."""
        self.logits += other.logits
        self.truth += other.truth

    def scores(self) -> dict[str, Any]:
        """Return `classify_scores`, and the (K, K) confusion matrix of images."""
        if not self.truth:
            raise ValueError("there are no images to score; give a folder with labeled ones")
        logits, labels = np.stack(self.logits), np.array(self.truth)
        matrix = confusion(labels, logits.argmax(1), self.classes, ignore=-1)
        return dict(classify_scores(logits, labels)) | {"confusion": matrix.tolist()}


def make_scorer(task: Task, classes: int) -> SegmentScorer | ClassifyScorer:
    """Return an empty scorer of a task."""
    return SegmentScorer(classes) if task == "segment" else ClassifyScorer(classes)


def scorer_for(spec: TaskSpec) -> Scorer:
    """Return an empty scorer of a model."""
    if spec.detector:
        return DetectScorer(spec.classes, spec.detector.masks)
    return make_scorer(spec.task, spec.classes)


def main_score(spec: TaskSpec) -> str:
    """Return the key of the score by which the best model is chosen."""
    return MASK_SCORE if spec.detector and spec.detector.masks else MAIN_SCORE[spec.task]


class Named(Protocol):
    """Class of a task, of a spec or of a manifest."""

    @property
    def name(self) -> str:
        """Name of the class."""


def plain_scores(scores: dict[str, Any], labels: Sequence[Named]) -> dict[str, Any]:
    """Return scores for JSON: those by class by its name, None in place of NaN."""
    plain = {name: _plain(value) for name, value in scores.items()}
    for name in plain.keys() & {*BY_CLASS}:
        plain[name] = {label.name: value for label, value in zip(labels, plain[name], strict=True)}
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
