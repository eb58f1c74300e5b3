"""The loss of the head eomt beside that of transformers' whole model."""

import numpy as np
import pytest
import torch
from helpers.eomt_oracle import CLASSES, Tokens, make_pair

from gtsa_kit.data.label_map import VOID
from gtsa_kit.models.eomt import QueryMasks
from gtsa_kit.tasks import query_loss as module
from gtsa_kit.tasks.query_loss import class_targets, instance_targets, make_query_criterion, query_loss


def test_the_loss_equals_that_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS", 12544)  # its default
    head, oracle = make_pair()
    x = torch.randn(2, 64, 4, 4)
    oracle.embeddings = Tokens(x.flatten(2).transpose(1, 2))
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, CLASSES, (2, 16, 16), dtype=np.uint8))
    labels[1, :8] = VOID
    classes = [label[label != VOID].unique().long() for label in labels]
    masks = [torch.stack([(label == k).float() for k in own]) for label, own in zip(labels, classes, strict=True)]
    torch.manual_seed(1)  # both draw the points at which masks are compared
    expected = oracle(torch.zeros(2, 3, 64, 64), mask_labels=masks, class_labels=classes).loss
    torch.manual_seed(1)
    parts = query_loss(head.predictions(x), class_targets(labels), make_query_criterion(CLASSES))
    assert parts.keys() == {"loss_cross_entropy", "loss_mask", "loss_dice"}
    torch.testing.assert_close(sum(parts.values()), expected, rtol=1e-4, atol=1e-4)


def test_masks_of_objects_are_padded_to_the_input() -> None:
    masks = torch.ones(2, 24, 20, dtype=torch.uint8)
    images = [
        {"labels": torch.tensor([3, 1]), "masks": masks},
        {"labels": torch.zeros(0).long(), "masks": torch.zeros(0, 32, 48, dtype=torch.uint8)},
    ]
    targets = instance_targets(images, (32, 48))
    assert [one.tolist() for one in targets.classes] == [[2, 0], []]
    assert [one.shape for one in targets.masks] == [(2, 32, 48), (0, 32, 48)]
    assert targets.masks[0][:, :24, :20].all()
    assert targets.masks[0].sum() == masks.sum()
    predictions = [QueryMasks(torch.randn(2, 5, 8, 12), torch.randn(2, 5, CLASSES + 1))]
    losses = query_loss(predictions, targets, make_query_criterion(CLASSES))
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_images_without_a_class_have_the_loss_of_classes_alone() -> None:
    predictions = [QueryMasks(torch.randn(2, 5, 8, 8), torch.randn(2, 5, CLASSES + 1))]
    labels = torch.full((2, 8, 8), VOID, dtype=torch.uint8)
    none = torch.full((10,), CLASSES)
    expected = 2 * torch.nn.functional.cross_entropy(predictions[0].classes.flatten(0, 1), none)
    losses = query_loss(predictions, class_targets(labels), make_query_criterion(CLASSES))
    torch.testing.assert_close(sum(losses.values()), expected)
