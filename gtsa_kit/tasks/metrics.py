"""Scores of task models, in percent: mIoU, aAcc, mAcc and IoU of pixels; top-1 and top-5 of classes."""

from typing import TypedDict

import numpy as np

from gtsa_kit.data.label_map import VOID

TOP = 5
"""Number of classes of which one must be right in top-5."""


class SegmentScores(TypedDict):
    """Scores of predicted pixels, in percent."""

    miou: float
    """Mean of `iou` over the classes that have one."""
    aacc: float
    """Share of correct pixels among those that are not void; NaN if all are void."""
    macc: float
    """Mean over the classes in the masks of the share of their pixels that are correct."""
    iou: list[float]
    """Intersection over union by class number; NaN for a class that is neither in the masks nor predicted."""


class ClassifyScores(TypedDict):
    """Scores of predicted classes, in percent."""

    top1: float
    """Share of images whose class has the highest logit."""
    top5: float
    """Share of images whose class is among the five highest logits; 100 with five classes or fewer."""


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int, ignore: int = VOID) -> np.ndarray:
    """Count pixels, or images, by true and predicted class.

    Args:
        labels: True class numbers, any shape and integer type.
        predictions: Predicted class numbers, of the same shape.
        classes: Number of classes, K.
        ignore: Label that is not counted.

    Returns:
        (K, K) int64; rows are true classes, columns predicted ones.

    Raises:
        ValueError: Shapes differ, or a counted number is not 0 to K - 1.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels have the shape {labels.shape} and predictions {predictions.shape}; give equal ones")
    counted = labels != ignore
    true, predicted = labels[counted].astype(np.int64), predictions[counted].astype(np.int64)
    for name, numbers in (("label", true), ("prediction", predicted)):
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < classes):
            wrong = numbers[(numbers < 0) | (numbers >= classes)][0]
            raise ValueError(f"the {name} {wrong} is none of {classes} classes; they count from 0 to {classes - 1}")
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def segment_scores(counts: np.ndarray) -> SegmentScores:
    """Compute the scores of pixels from a (K, K) confusion matrix, which may be a sum over images."""
    correct, labeled, predicted = (x.astype(np.float64) for x in (np.diag(counts), counts.sum(1), counts.sum(0)))
    iou = 100 * _ratio(correct, labeled + predicted - correct)
    recall = 100 * _ratio(correct, labeled)
    overall = 100 * _ratio(correct.sum(keepdims=True), labeled.sum(keepdims=True))
    return {"miou": _mean(iou), "aacc": float(overall[0]), "macc": _mean(recall), "iou": iou.tolist()}


def classify_scores(logits: np.ndarray, labels: np.ndarray) -> ClassifyScores:
    """Compute the scores of classes from logits (N, K) and class numbers (N,); of equal logits the first counts first.

    Raises:
        ValueError: There is no image.
    """
    if not len(labels):
        raise ValueError("there are no images to score; give a folder with labeled ones")
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    hits = order == labels[:, None]
    return {"top1": 100 * float(hits[:, 0].mean()), "top5": 100 * float(hits.any(1).mean())}


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 by 0 is NaN."""
    ratio: np.ndarray = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    return ratio


def _mean(values: np.ndarray) -> float:
    """Return the mean of those that are not NaN; NaN if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
