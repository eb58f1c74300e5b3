"""Scores of tasks against torchmetrics and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from gtsa_kit.data.label_map import VOID
from gtsa_kit.tasks.metrics import classify_scores, confusion, segment_scores


def masks(classes: int, present: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted masks in which some classes do not occur, and void pixels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, present, (3, 30, 40)).astype(np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, present, labels.shape))
    labels[:, :5] = VOID
    return labels, predictions.astype(np.uint8)


def test_scores_of_pixels_are_those_of_torchmetrics() -> None:
    labels, predictions = masks(4, 4)
    scores = segment_scores(confusion(labels, predictions, 4))
    true, predicted = torch.from_numpy(labels).long(), torch.from_numpy(predictions).long()
    expected = multiclass_jaccard_index(predicted, true, 4, average="none", ignore_index=VOID)
    np.testing.assert_allclose(scores["iou"], 100 * expected, rtol=1e-5)
    assert scores["miou"] == pytest.approx(100 * expected.mean().item(), rel=1e-5)
    for key, average in (("aacc", "micro"), ("macc", "macro")):
        accuracy = multiclass_accuracy(predicted, true, 4, average=average, ignore_index=VOID)
        assert scores[key] == pytest.approx(100 * accuracy.item(), rel=1e-5)


def test_the_confusion_matrix_is_that_of_scikit_learn_and_adds_up_over_images() -> None:
    labels, predictions = masks(6, 4)
    whole, kept = confusion(labels, predictions, 6), labels != VOID
    assert (whole == confusion_matrix(labels[kept], predictions[kept], labels=range(6))).all()
    assert (whole == sum(confusion(*pair, 6) for pair in zip(labels, predictions, strict=True))).all()


def test_classes_without_pixels_are_left_out_of_the_means() -> None:
    labels, predictions = masks(6, 4)
    scores = segment_scores(confusion(labels, predictions, 6))
    assert all(map(math.isnan, scores["iou"][4:]))
    assert scores["miou"] == pytest.approx(np.mean(scores["iou"][:4]))
    predictions[labels == 0] = 5  # predicted and not in the masks: IoU 0
    scores = segment_scores(confusion(labels, predictions, 6))
    assert scores["iou"][5] == 0
    assert math.isnan(scores["iou"][4])
    true, predicted = torch.from_numpy(labels).long(), torch.from_numpy(predictions).long()
    expected = multiclass_jaccard_index(predicted, true, 6, average="macro", ignore_index=VOID).item()
    assert scores["miou"] == pytest.approx(100 * expected, rel=1e-5)
    assert scores["miou"] == pytest.approx(np.mean([*scores["iou"][:4], 0]))
    assert scores["macc"] == pytest.approx(np.mean([100 * (predictions[labels == c] == c).mean() for c in range(4)]))


def test_masks_that_are_all_void_have_no_scores() -> None:
    empty = np.full((2, 2), VOID, np.uint8)
    scores = segment_scores(confusion(empty, np.zeros_like(empty), 3))
    assert all(map(math.isnan, [scores["miou"], scores["aacc"], scores["macc"], *scores["iou"]]))


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 9)), rng.integers(0, 9, 200)
    scores = classify_scores(logits, labels)
    for key, k in (("top1", 1), ("top5", 5)):
        assert scores[key] == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=k, labels=range(9)))
    assert classify_scores(logits[:, :3], labels % 3)["top5"] == 100


@pytest.mark.parametrize(("labels", "predictions", "words"), [([0, 3], [0, 0], "label 3"), ([0, 1], [0, 7], "7 is")])
def test_numbers_beyond_the_classes_are_named(labels: list[int], predictions: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        confusion(np.array(labels), np.array(predictions), 3)
