"""The loss of the head eomt beside that of transformers' whole model."""

import numpy as np
import pytest
import torch
from helpers.eomt_oracle import CLASSES, Tokens, make_pair

from gtsa_kit.data.label_map import VOID
from gtsa_kit.models.eomt import QueryMasks
from gtsa_kit.tasks import query_loss as module
from gtsa_kit.tasks.query_loss import make_query_criterion, query_loss


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
    actual = query_loss(head.predictions(x), labels, make_query_criterion(CLASSES))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_images_without_a_class_have_the_loss_of_classes_alone() -> None:
    predictions = [QueryMasks(torch.randn(2, 5, 8, 8), torch.randn(2, 5, CLASSES + 1))]
    labels = torch.full((2, 8, 8), VOID, dtype=torch.uint8)
    none = torch.full((10,), CLASSES)
    expected = 2 * torch.nn.functional.cross_entropy(predictions[0].classes.flatten(0, 1), none)
    torch.testing.assert_close(query_loss(predictions, labels, make_query_criterion(CLASSES)), expected)
