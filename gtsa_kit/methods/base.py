"""Interface between the trainer and a method: a student, its moving average as teacher, and a loss over their outputs.

A method defines nothing else: data, schedules, optimizer, checkpoints and the saved encoder belong to the trainer and
are the same for all methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features


class PlotGroup(NamedTuple):
    """One plot of the training curves."""

    title: str
    columns: tuple[str, ...]
    """Columns of metrics.jsonl."""
    baseline: str | None = None
    """Column of a baseline, drawn as a dashed black line."""
    level: float | None = None
    """Constant level, such as chance or collapse, drawn as a dashed black line."""
    level_name: str = "chance"
    """Name of the level in the legend."""
    limits: tuple[float | None, float | None] = (None, None)
    """Ends of the vertical axis; None is chosen by the values."""
    sparse: bool = False
    """True where only some rows have the columns, such as scores: a line then joins their points."""


@dataclass(frozen=True)
class TrainSchedule:
    """Length of a run, counted in optimizer steps."""

    images: int
    """Number of images of the dataset."""
    batch: int
    """Images per optimizer step, summed over processes and micro-steps."""
    steps: int
    """Optimizer steps of the run."""
    warmup: int
    """Warm-up steps of the learning rate."""
    frozen: int = 0
    """First steps, in which neither encoder changes."""

    @classmethod
    def from_config(cls, config: RunConfig, images: int, world: int) -> "TrainSchedule":
        """Convert the epochs of a config to steps for a dataset of `images` images and `world` processes."""
        batch = config.train.micro_batch * config.train.accumulate * world
        steps = config.train.steps or max(1, round(config.train.epochs * (images / batch)))
        return cls(images, batch, steps, warmup=0).with_steps(steps, config)

    def with_steps(self, steps: int, config: RunConfig) -> "TrainSchedule":
        """Return the same schedule for another number of steps."""
        schedule = replace(self, steps=steps)
        return replace(
            schedule,
            warmup=schedule.epochs_to_steps(config.optim.warmup_epochs),
            frozen=schedule.epochs_to_steps(config.train.freeze_encoder_epochs),
        )

    def to_dict(self) -> dict[str, int]:
        """Return the values that a checkpoint keeps; a resumed run must have the same ones, or more steps."""
        return {"batch": self.batch, "steps": self.steps, "images": self.images}

    def epochs_to_steps(self, epochs: float) -> int:
        """Return the number of steps in `epochs` epochs, at most half of the run."""
        return min(round(epochs * (self.images / self.batch)), self.steps // 2)


class Branch(nn.Module):
    """Student or teacher: an encoder followed by heads."""

    encoder: Encoder
    encoder_frozen = False
    """True while only the heads are trained: the encoder runs without gradients."""

    def encode(self, images: Tensor, final_norm: bool) -> Features:
        """Encode normalized images (N, 3, H, W), without gradients while the encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            features: Features = self.encoder(images, final_norm=final_norm)
        return features

    def initialize_from(self, student: "Branch") -> None:
        """Copy the student's weights of the same names and disable gradients: the initial state of a teacher."""
        self.load_state_dict({k: v for k, v in student.state_dict().items() if k in self.state_dict()})
        self.requires_grad_(False)


class Method(nn.Module):
    """Base class of all methods.

    State that a loss keeps from step to step must be a registered buffer: a checkpoint stores parameters and buffers
    only.
    """

    plot_groups: tuple[PlotGroup, ...] = ()
    """Plots of the method's own loss terms and schedules."""
    student: Branch
    """Branch that the optimizer trains."""
    teacher: Branch
    """Branch whose parameters are the moving average of the student's. Its encoder is the result of a run."""

    def forward(self, views: Views) -> Any:
        """Run student and teacher, in the precision of the run (the loss is computed in float32).

        Every trained parameter must be used, because distributed training waits for its gradient. The encoders are run
        by `Branch.encode`, which computes no gradients while they are frozen.

        Returns:
            The argument `outputs` of `loss`: a NamedTuple whose field `tokens` (B, G, D, h, w) holds the student
            encoder's feature maps of the global views, for the collapse metrics.
        """
        raise NotImplementedError

    def loss(
        self, outputs: Any, views: Views, schedule_values: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimize and the scalars to log by column name; called outside of autocast.

        Args:
            outputs: Result of `forward`.
            views: Argument of `forward`.
            schedule_values: Value of every schedule at this step, by column name.
        """
        raise NotImplementedError

    def extra_metrics(self, outputs: Any, views: Views) -> dict[str, float]:
        """Return metrics that are too expensive for every step, by column name; called for logged steps only."""
        return {}

    def schedules(self, schedule: TrainSchedule) -> dict[str, np.ndarray]:
        """Return the method's own schedules, (steps,) each, by column name."""
        return {}

    def compile_branches(self, backend: str = "inductor") -> None:
        """Compile encoders and heads with torch, one graph per view size; parameter names stay the same.

        Random numbers are those of an uncompiled run (`fallback_random`).
        """
        options = {"fallback_random": True} if backend == "inductor" else None
        for branch in (self.student, self.teacher):
            for module in branch.children():
                module.compile(backend=backend, dynamic=False, options=options)

    def use_unfused_attention(self) -> None:
        """Switch both encoders to unfused attention, for bf16 on a CPU (`Encoder.use_unfused_attention`)."""
        for branch in (self.student, self.teacher):
            branch.encoder.use_unfused_attention()

    def after_backward(self, step: int, schedule: TrainSchedule) -> None:
        """Change the summed gradients of step `step` (counted from 0) before they are clipped.

        A frozen encoder has none; the zeros that distributed training needs are discarded, so that the optimizer leaves
        its weights and moments alone.
        """
        if step < schedule.frozen:
            for parameter in self.student.encoder.parameters():
                parameter.grad = None

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights, by timm's keys, into both encoders."""
        for branch in (self.student, self.teacher):
            branch.encoder.vit.load_state_dict(weights, strict=True)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Update the moving average: teacher = momentum * teacher + (1 - momentum) * student."""
        student = dict(self.student.named_parameters())
        teacher = list(self.teacher.named_parameters())
        torch._foreach_lerp_([p for _, p in teacher], [student[name] for name, _ in teacher], 1 - momentum)


def world_size() -> int:
    """Return the number of processes that train together."""
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialized else 1
