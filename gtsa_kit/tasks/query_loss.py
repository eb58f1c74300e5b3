"""Loss of the head eomt: masks and classes of queries matched with those of the image, by transformers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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


class QueryTargets(NamedTuple):
    """Masks of the images of a batch with their classes."""

    masks: list[Tensor]
    """Masks of each image, (N, H, W) float32 of 0 and 1; one shows the whole input."""
    classes: list[Tensor]
    """Their class numbers, (N,) int64."""


def class_targets(labels: Tensor) -> QueryTargets:
    """Return a mask for each class of an image.

    Args:
        labels: (B, H, W) class numbers; pixels of `VOID` belong to no mask.
    """
    classes = [torch.unique(label[label != VOID]).long() for label in labels]
    masks = [
        (label[None] == present[:, None, None]).float() for label, present in zip(labels.long(), classes, strict=True)
    ]
    return QueryTargets(masks, classes)


def instance_targets(images: Iterable[Mapping[str, Tensor]], size: Sequence[int]) -> QueryTargets:
    """Return a mask for each object of an image.

    Args:
        images: Objects of each image, see `DetectorHead.losses`.
        size: (height, width) of the input; images are padded below and on the right to it, so masks are too.
    """
    masks, classes = [], []
    for image in images:
        missing = [whole - part for whole, part in zip(size, image["masks"].shape[1:], strict=True)]
        masks.append(F.pad(image["masks"].float(), (0, missing[1], 0, missing[0])))
        classes.append(image["labels"] - 1)
    return QueryTargets(masks, classes)


def query_loss(predictions: Sequence[QueryMasks], targets: QueryTargets, criterion: Any) -> dict[str, Tensor]:
    """Return the losses of masks and classes, weighted: sums over the predictions before each block and after the last.

    Args:
        predictions: Predictions of `EomtHead.predictions`.
        targets: Masks of each image and their classes.
        criterion: Loss of `make_query_criterion`.
    """
    totals: dict[str, Tensor] = {}
    for prediction in predictions:
        parts = criterion(prediction.masks.float(), prediction.classes.float(), *targets)
        for name, part in parts.items():
            totals[name] = totals.get(name, 0) + criterion.weight_dict[name] * part
    return totals
