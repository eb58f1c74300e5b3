"""The methods by name, each with its loss."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Method, Plan
from gtsa_kit.methods.collapse_metrics import rotation_accuracy
from gtsa_kit.methods.gtsa import GTSA, Outputs
from gtsa_kit.methods.gtsa_losses import constant_baseline_loss, gtsa_loss


class GTSAMethod(GTSA):
    """GTSA with its three losses."""

    panels = (
        ("Minus cosine: region, correspondence; region of a constant", ("region", "correspondence", "constant")),
        ("Rotation (cross-entropy)", ("rotation",)),
        ("Turns named right (chance 0.25)", ("rotation_accuracy",)),
    )

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.model)
        self.weights = config.loss

    def loss(self, outputs: Outputs, views: Views, now: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 4 and its terms."""
        total, *terms = gtsa_loss(outputs, views.boxes, views.rotations, self.weights, now["alpha"])
        accuracy = rotation_accuracy(outputs.turn_logits, views.rotations)
        names = ("region", "correspondence", "rotation", "rotation_accuracy")
        return total, dict(zip(names, [*terms, accuracy], strict=True))

    @torch.no_grad()
    def signals(self, outputs: Outputs, views: Views) -> dict[str, float]:
        """What the region loss of this batch would be for a student that says the same of every place."""
        cells = self.weights.roi_size_global
        return {"constant": float(constant_baseline_loss(outputs.targets, views.boxes, views.rotations, cells))}

    def schedules(self, plan: Plan) -> dict[str, np.ndarray]:
        """Weight of the patch correspondence: 0 while the learning rate warms up."""
        return {"alpha": np.where(np.arange(plan.steps) < plan.warmup, 0.0, self.weights.correspondence_weight)}


def make_method(config: RunConfig) -> Method:
    """Student and teacher with random weights, drawn from torch's own generator."""
    if config.method == "dino":
        from gtsa_kit.methods.dino import DINO

        return DINO(config)
    if config.method == "mocov3":
        from gtsa_kit.methods.mocov3 import MoCoV3

        return MoCoV3(config)
    return GTSAMethod(config)
