"""DINO (Caron et al., 2021): the student names the prototypes that the teacher names in another view.

Head and loss are lightly's. What differs from the published method is listed in docs/baselines.md.
"""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.config import DINOConfig, RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Method, Plan
from gtsa_kit.methods.lightly_import import lightly
from gtsa_kit.methods.pooled import Pooled


class DINOOutputs(NamedTuple):
    """B images, G global views of V in all, K prototypes."""

    student: Tensor
    """(V, B, K), globals first."""
    teacher: Tensor
    """(G, B, K); no gradient."""
    tokens: Tensor
    """(B, G, D, h, w); no gradient."""


class DINO(Method):
    """Student and teacher with the same head, and the loss with the center that it remembers."""

    panels = (
        ("Loss = entropy of the teacher + divergence from it", ("teacher_entropy", "divergence")),
        ("Teacher temperature", ("teacher_temperature",)),
    )
    student: Pooled
    teacher: Pooled

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.settings = config.dino
        self.student = Pooled(config.model, self._head, config.model.drop_path)
        self.teacher = Pooled(config.model, self._head)
        self.teacher.follow(self.student)
        self.criterion = lightly("loss.dino_loss").DINOLoss(
            self.settings.prototypes,
            student_temp=self.settings.student_temperature,
            center_momentum=self.settings.center_momentum,
        )

    def _head(self, width: int) -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)  # how lightly is written
            return dino_head(width, self.settings)

    def forward(self, views: Views) -> DINOOutputs:
        """The student sees every view, the teacher the global ones."""
        embeddings, tokens = self.student.embed_all(views)
        with torch.no_grad():
            targets = self.teacher.head(self.teacher.embed(views.global_images)[0])
        return DINOOutputs(self.student.head(embeddings), targets, tokens)

    def loss(self, outputs: DINOOutputs, views: Views, now: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over all pairs of g and view v != g, in the parts that tell collapse.

        An entropy of 0 is one prototype for all, an entropy of ln K none for any; either ends with no divergence.
        Moves the center; with several processes by the mean over all of them, with micro-steps once in each.
        """
        temperature = now["teacher_temperature"]
        named = torch.log_softmax((outputs.teacher - self.criterion.center) / temperature, dim=-1)
        entropy = -(named.exp() * named).sum(dim=-1).mean()
        total = self.criterion(list(outputs.teacher), list(outputs.student), teacher_temp=temperature)
        return total, {"teacher_entropy": entropy, "divergence": total.detach() - entropy}

    def schedules(self, plan: Plan) -> dict[str, np.ndarray]:
        """The teacher's temperature rises linearly, then stays."""
        first, final = self.settings.teacher_temperature, self.settings.final_teacher_temperature
        warmup = plan.first(self.settings.temperature_warmup_epochs)
        rising = np.linspace(first, final, warmup, endpoint=False)
        return {"teacher_temperature": np.concatenate([rising, np.full(plan.steps - warmup, final)])}

    def after_backward(self, step: int, plan: Plan) -> None:
        """Keep the prototypes where they are during the first epochs."""
        if step < plan.first(self.settings.freeze_epochs):
            for parameter in self.student.head.get_submodule("last_layer").parameters():
                parameter.grad = None


def dino_head(width: int, settings: DINOConfig) -> nn.Module:
    """Three layers with GELU, unit length, then prototypes of unit length: (..., width) to (..., K)."""
    head: nn.Module = lightly("models.modules.heads").DINOProjectionHead(
        width,
        settings.hidden,
        settings.bottleneck,
        settings.prototypes,
        norm_last_layer=settings.norm_last_layer,
    )
    return head
