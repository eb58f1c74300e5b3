"""DINO (Caron et al., 2021): the student predicts the teacher's distribution over prototypes in another view.

Head and loss are in `dino_loss.py`. docs/baselines.md lists the differences from the published method.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Method, PlotGroup, TrainSchedule
from gtsa_kit.methods.baselines import PooledBranch
from gtsa_kit.methods.dino_loss import dino_criterion, dino_head, dino_loss, freeze_prototypes, teacher_temperatures
from gtsa_kit.models.encoder_spec import EncoderSpec


class DINOOutputs(NamedTuple):
    """Outputs of student and teacher: B images, G global views of V views in all, K prototypes."""

    student: Tensor
    """Student logits, (V, B, K), global views first."""
    teacher: Tensor
    """Teacher logits, (G, B, K), without gradient."""
    tokens: Tensor
    """Student encoder's feature maps of the global views, (B, G, D, h, w), without gradient."""


class DINO(Method):
    """DINO: student and teacher with the same head, and lightly's loss with its center buffer."""

    student: PooledBranch
    teacher: PooledBranch

    def __init__(self, config: RunConfig, encoder: EncoderSpec) -> None:
        super().__init__()
        self.dino_config = config.dino
        self.plot_groups = (
            PlotGroup("loss and its baseline", ("loss",), baseline="loss_constant_baseline", limits=(0, None)),
            PlotGroup(
                "loss: teacher entropy + KL divergence",
                ("teacher_entropy", "divergence"),
                level=math.log(config.dino.prototypes),
                level_name="entropy of equal prototypes",
                limits=(0, None),
            ),
            PlotGroup("teacher temperature", ("teacher_temperature",), limits=(0, None)),
        )
        head = partial(dino_head, config=config.dino)
        self.student = PooledBranch(config.model, encoder, head, config.model.drop_path)
        self.teacher = PooledBranch(config.model, encoder, head)
        self.teacher.initialize_from(self.student)
        self.criterion = dino_criterion(self.dino_config)

    def forward(self, views: Views) -> DINOOutputs:
        """Run the student on all views and the teacher on the global views."""
        embeddings, tokens = self.student.embed_all(views)
        with torch.no_grad():
            targets = self.teacher.head(self.teacher.embed(views.global_images)[0])
        return DINOOutputs(self.student.head(embeddings), targets, tokens)

    def loss(
        self, outputs: DINOOutputs, views: Views, schedule_values: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, its two parts and its baseline; see `dino_loss`. The call also updates the center."""
        return dino_loss(self.criterion, outputs.teacher, outputs.student, schedule_values["teacher_temperature"])

    def schedules(self, schedule: TrainSchedule) -> dict[str, np.ndarray]:
        """Return the teacher temperature."""
        return {"teacher_temperature": teacher_temperatures(self.dino_config, schedule)}

    def after_backward(self, step: int, schedule: TrainSchedule) -> None:
        """Discard the prototypes' gradients during the first `freeze_epochs`, and those of a frozen encoder."""
        super().after_backward(step, schedule)
        freeze_prototypes(self.student.head, self.dino_config, step, schedule)
