"""Losses of tasks against torch's own, and labels of views against the pixels of the same views."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.task_models import random_task_model, task_spec
from PIL import Image

from gtsa_kit.data.label_map import VOID
from gtsa_kit.tasks.objective import class_loss, pixel_loss
from gtsa_kit.tasks.views import apply_to_image, apply_to_labels, make_view


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 4.0])])
def test_the_loss_of_pixels_is_that_of_torch_and_0_where_all_are_void(weights: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7), dtype=torch.uint8)
    labels[:, :2] = VOID
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=VOID)
    torch.testing.assert_close(pixel_loss(logits, labels, weights), expected)
    assert pixel_loss(logits, torch.full_like(labels, VOID), weights) == 0


def test_mixed_labels_of_one_class_have_the_loss_of_the_class() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(class_loss(logits, F.one_hot(labels, 3)), class_loss(logits, labels))


@pytest.mark.parametrize("number", range(5))
def test_labels_of_a_view_lie_on_its_pixels(number: int) -> None:
    labels = np.kron(np.random.default_rng(0).integers(0, 250, (6, 8)), np.ones((20, 20), int)).astype(np.uint8)
    view = make_view(number, 0, 3)
    pixels = np.asarray(apply_to_image(view, Image.fromarray(labels)))
    sampled = apply_to_labels(view, labels, pixels.shape)
    assert (sampled == pixels).mean() > 0.9  # crops are rounded to whole pixels
    assert number > 0 or (sampled == labels).all()


def test_the_loss_at_the_reduced_size_of_labels_is_close_to_that_at_full_size() -> None:
    """Frozen training compares logits with every fourth label; measured on masks of blocks with random logits."""
    model = random_task_model(task_spec("fpn flat"))
    rng, ratios = np.random.default_rng(0), []
    for _ in range(4):
        blocks = rng.integers(0, 5, (6, 8), np.uint8)
        labels = np.array(Image.fromarray(blocks).resize((208, 160), Image.Resampling.NEAREST))
        with torch.inference_mode():
            logits = model.head(*model.features(torch.randn(1, 3, 160, 208)))
            full = pixel_loss(model.resize(logits, (160, 208)), torch.from_numpy(labels)[None], None)
            small = pixel_loss(model.resize(logits, (40, 52)), torch.from_numpy(labels[2::4, 2::4])[None], None)
        ratios.append(float(small / full))
    assert ratios == pytest.approx([1] * 4, abs=0.02)
