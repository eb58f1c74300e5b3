"""Loss of the head eomt: masks and classes of queries matched with the classes of the image, by transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gtsa_kit.data.label_map import VOID
from gtsa_kit.models.eomt import QueryMasks

POINTS = 4096
"""Points of a mask at which the loss compares it."""


def make_query_criterion(classes: int) -> Any:
    """Return transformers' loss of EoMT, with its weights: 2 for classes, 5 each for masks and their dice.

    Raises:
        ValueError: transformers or scipy is not installed.
    """
    try:
        from transformers.models.eomt.configuration_eomt import EomtConfig
        from transformers.models.eomt.modeling_eomt import EomtLoss

        config = EomtConfig(num_labels=classes, train_num_points=POINTS)
        weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        criterion = EomtLoss(config=config, weight_dict=weights)
    except ImportError as error:
        raise ValueError(
            "the head eomt is trained with the loss of transformers, which is not installed or lacks scipy; run: pip "
            "install transformers scipy"
        ) from error
    criterion.empty_weight = torch.ones(classes + 1)
    criterion.empty_weight[-1] = config.no_object_weight
    return criterion


def query_loss(predictions: Sequence[QueryMasks], labels: Tensor, criterion: Any) -> Tensor:
    """Return the sum of the losses of all predictions, those before each block and those after the last.

    Args:
        predictions: Predictions of `EomtHead.predictions`.
        labels: (B, H, W) class numbers; pixels of `VOID` belong to no mask.
        criterion: Loss of `make_query_criterion`.
    """
    classes = [torch.unique(label[label != VOID]).long() for label in labels]
    masks = [
        (label[None] == present[:, None, None]).float() for label, present in zip(labels.long(), classes, strict=True)
    ]
    total = torch.zeros((), device=labels.device)
    for prediction in predictions:
        parts = criterion(prediction.masks.float(), prediction.classes.float(), masks, classes)
        total = total + sum(criterion.weight_dict[name] * part for name, part in parts.items())
    return total
