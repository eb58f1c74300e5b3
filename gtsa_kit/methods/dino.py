"""DINO (Caron et al., 2021): the student predicts the teacher's distribution over prototypes in another view.

Head and loss are lightly's. docs/baselines.md lists the differences from the published method.
"""

import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.config import DINOConfig, RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Method, PlotGroup, TrainSchedule
from gtsa_kit.methods.baselines import PooledBranch, import_lightly
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
        self.student = PooledBranch(config.model, encoder, self._head, config.model.drop_path)
        self.teacher = PooledBranch(config.model, encoder, self._head)
        self.teacher.initialize_from(self.student)
        self.criterion = import_lightly("loss.dino_loss").DINOLoss(
            self.dino_config.prototypes,
            student_temp=self.dino_config.student_temperature,
            center_momentum=self.dino_config.center_momentum,
        )

    def _head(self, width: int) -> nn.Module:
        """Build the head without lightly's warning about the deprecated `weight_norm`."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
            return dino_head(width, self.dino_config)

    def forward(self, views: Views) -> DINOOutputs:
        """Run the student on all views and the teacher on the global views."""
        embeddings, tokens = self.student.embed_all(views)
        with torch.no_grad():
            targets = self.teacher.head(self.teacher.embed(views.global_images)[0])
        return DINOOutputs(self.student.head(embeddings), targets, tokens)

    def loss(
        self, outputs: DINOOutputs, views: Views, schedule_values: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy over all pairs of a global view g and a view v != g, its two parts, and a baseline.

        The parts are the teacher's entropy and the KL divergence. An entropy of 0 (one prototype for all images) or of
        ln K (all prototypes equal) with a divergence of 0 is collapse. The baseline is the smallest loss that a student
        with the same output for all images of this process could reach: the entropy of the teacher's mean distribution.

        The call also updates the center: by the mean over all processes, and at every micro-step.
        """
        temperature = schedule_values["teacher_temperature"]
        log_probabilities = torch.log_softmax((outputs.teacher - self.criterion.center) / temperature, dim=-1)
        probabilities = log_probabilities.exp()
        entropy = -(probabilities * log_probabilities).sum(dim=-1).mean()
        mean = probabilities.mean(dim=(0, 1))
        baseline = -torch.xlogy(mean, mean).sum()
        total = self.criterion(list(outputs.teacher), list(outputs.student), teacher_temp=temperature)
        terms = {"teacher_entropy": entropy, "divergence": total.detach() - entropy}
        return total, terms | {"loss_constant_baseline": baseline}

    def schedules(self, schedule: TrainSchedule) -> dict[str, np.ndarray]:
        """Return the teacher temperature: a linear rise, then constant."""
        first, final = self.dino_config.teacher_temperature, self.dino_config.final_teacher_temperature
        warmup = schedule.epochs_to_steps(self.dino_config.temperature_warmup_epochs)
        rise = np.linspace(first, final, warmup, endpoint=False)
        return {"teacher_temperature": np.concatenate([rise, np.full(schedule.steps - warmup, final)])}

    def after_backward(self, step: int, schedule: TrainSchedule) -> None:
        """Discard the prototypes' gradients during the first `freeze_epochs`, and those of a frozen encoder."""
        super().after_backward(step, schedule)
        if step < schedule.epochs_to_steps(self.dino_config.freeze_epochs):
            for parameter in self.student.head.get_submodule("last_layer").parameters():
                parameter.grad = None


def dino_head(width: int, config: DINOConfig) -> nn.Module:
    """Build DINO's head, (..., width) to logits (..., K): three layers with GELU, L2 norm, L2-normalized prototypes."""
    head: nn.Module = import_lightly("models.modules.heads").DINOProjectionHead(
        width,
        config.hidden,
        config.bottleneck,
        config.prototypes,
        norm_last_layer=config.norm_last_layer,
    )
    return head
