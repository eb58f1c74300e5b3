"""What the trainer asks of a method: a student, a teacher that follows it, and a loss over what both make of the views.

GTSA and the baselines differ in what stands here and in nothing else: data, schedules, optimizer, checkpoints and the
encoder that comes out are the trainer's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.models.encoder import Encoder

Panel = tuple[str, tuple[str, ...]]
"""A title, and the columns of metrics.jsonl that are drawn below it."""


@dataclass(frozen=True)
class Plan:
    """The run in steps."""

    images: int
    batch: int
    """Images a step, over all devices and micro-steps."""
    steps: int
    warmup: int

    @classmethod
    def make(cls, config: RunConfig, images: int, world: int) -> "Plan":
        """Epochs to steps."""
        batch = config.train.batch_size * config.train.accumulate * world
        steps = config.train.steps or max(1, round(config.train.epochs * (images / batch)))
        plan = cls(images, batch, steps, warmup=0)
        return cls(images, batch, steps, plan.first(config.optim.warmup_epochs))

    def first(self, epochs: float) -> int:
        """Steps of the first `epochs`; at most half of a run that is shorter than twice that."""
        return min(round(epochs * (self.images / self.batch)), self.steps // 2)


class Branch(nn.Module):
    """A student or a teacher: an encoder, with heads of its own."""

    encoder: Encoder


class Method(nn.Module):
    """Base of all methods.

    Whatever a loss remembers from step to step is a registered buffer: checkpoints hold parameters and buffers, and
    nothing else is there when a run goes on.
    """

    panels: ClassVar[tuple[Panel, ...]] = ()
    """Curves of the method's own terms and schedules."""
    student: Branch
    """What the optimizer trains."""
    teacher: Branch
    """Every parameter has the student's of the same name to follow; its encoder is what a run hands on."""

    def forward(self, views: Views) -> Any:
        """Outputs for `loss`: a NamedTuple that has the student's `tokens` (B, G, D, h, w), for the collapse signals.

        This alone runs in the run's precision; it must call every trained parameter.
        """
        raise NotImplementedError

    def loss(self, outputs: Any, views: Views, now: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimize, and the scalars to log, by the name of their column; outside of autocast.

        Args:
            outputs: Of `forward`.
            views: What they were made of.
            now: Every schedule's value at this step.
        """
        raise NotImplementedError

    def signals(self, outputs: Any, views: Views) -> dict[str, float]:
        """More to log, too dear to be taken at every step: by the name of its column."""
        return {}

    def schedules(self, plan: Plan) -> dict[str, np.ndarray]:
        """What changes from step to step beside the optimizer's numbers: (steps,) each, by the name of its column."""
        return {}

    def compile_branches(self, backend: str = "inductor") -> None:
        """Have torch compile encoders and heads, one graph for each shape of views; parameters keep their names.

        Random numbers stay those of an uncompiled run, so that compiling changes none of what is drawn.
        """
        options = {"fallback_random": True} if backend == "inductor" else None
        for branch in (self.student, self.teacher):
            for part in branch.children():
                part.compile(backend=backend, dynamic=False, options=options)

    def use_unfused_attention(self) -> None:
        """Of both encoders, for training in bf16 on a CPU (`Encoder.use_unfused_attention`)."""
        for branch in (self.student, self.teacher):
            branch.encoder.use_unfused_attention()

    def after_backward(self, step: int, plan: Plan) -> None:
        """Called with the whole step's gradients, before they are clipped; `step` counts from 0."""

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """One step of the moving average: momentum * teacher + (1 - momentum) * student."""
        student = dict(self.student.named_parameters())
        ours = list(self.teacher.named_parameters())
        torch._foreach_lerp_([p for _, p in ours], [student[name] for name, _ in ours], 1 - momentum)
