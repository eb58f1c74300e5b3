"""Optimizer, parameter groups, gradient clipping, and schedules as arrays indexed by step."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from gtsa_kit.config import PUBLISHED_MOMENTUM, OptimConfig

MAX_INITIAL_SHARE = 1e-3
"""Largest share of initial weights that the teacher may keep at the end of a run."""


@dataclass(frozen=True)
class HyperparameterSchedules:
    """Schedules of a run, (steps,) float64 each."""

    lr: np.ndarray
    weight_decay: np.ndarray
    teacher_momentum: np.ndarray
    method: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The method's own schedules by column name."""

    def at(self, step: int) -> dict[str, float]:
        """Return the values at one step by column name, as Python floats, because checkpoints hold no numpy objects."""
        common = {"lr": self.lr, "weight_decay": self.weight_decay, "teacher_momentum": self.teacher_momentum}
        return {name: float(values[step]) for name, values in {**common, **self.method}.items()}


def make_schedules(
    config: OptimConfig,
    steps: int,
    warmup: int,
    batch: int,
    method: Mapping[str, np.ndarray] | None = None,
    published_momentum: float = PUBLISHED_MOMENTUM["gtsa"],
) -> HyperparameterSchedules:
    """Build the schedules of a run.

    Args:
        config: Start and end values.
        steps: Optimizer steps of the run.
        warmup: Warm-up steps, part of `steps`.
        batch: Images per step over all processes; the peak learning rate is `config.lr * batch / 256`.
        method: The method's own schedules, (steps,) each.
        published_momentum: Value of `PUBLISHED_MOMENTUM` for the method, for a teacher momentum of "auto".
    """
    peak = config.lr * batch / 256
    rise = peak * np.arange(warmup) / max(warmup, 1)
    momentum, final_momentum = config.teacher_momentum, config.final_teacher_momentum
    if momentum == "auto":
        momentum = auto_momentum(published_momentum, final_momentum, steps)
    return HyperparameterSchedules(
        lr=np.concatenate([rise, cosine(peak, config.final_lr, steps - warmup)]),
        weight_decay=cosine(config.weight_decay, config.final_weight_decay, steps),
        teacher_momentum=cosine(momentum, final_momentum, steps),
        method=method or {},
    )


def auto_momentum(published: float, final: float, steps: int) -> float:
    """Return the teacher's initial momentum for a run of `steps` steps.

    It is the published value if that leaves less than `MAX_INITIAL_SHARE` of initial weights in the teacher at the end.
    A shorter run gets the largest smaller value that does, in four decimals: about 1 - 13.8 / steps.
    """
    if initial_share(cosine(published, final, steps)) < MAX_INITIAL_SHARE:
        return published
    # The share grows with the initial momentum, so the values that are small enough come first; 0 is one of them.
    ten_thousandths = range(round(published * 1e4))
    count = bisect_left(
        ten_thousandths, MAX_INITIAL_SHARE, key=lambda value: initial_share(cosine(value / 1e4, final, steps))
    )
    return (count - 1) / 1e4


def initial_share(momenta: np.ndarray) -> float:
    """Return the share of initial weights in a moving average after steps with these momenta: their product."""
    return float(np.prod(momenta))


def cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Return half a cosine period (steps,) from `start` at the first step to `end` at the last."""
    progress = np.arange(steps) / max(steps - 1, 1)
    return np.asarray(end + (start - end) * (1 + np.cos(np.pi * progress)) / 2)


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Split trained parameters into two groups: weights with decay; biases and 1-D parameters without."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (undecayed if parameter.ndim < 2 or name.endswith("bias") else decayed).append(parameter)
    return [{"params": decayed, "decay": True}, {"params": undecayed, "decay": False, "weight_decay": 0.0}]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over `parameter_groups`; `set_hyperparameters` sets learning rate and decay at every step."""
    return torch.optim.AdamW(parameter_groups(model), lr=0.0, betas=config.betas, weight_decay=0.0, fused=True)


def set_hyperparameters(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set the learning rate of all groups, and the weight decay of the groups that decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


@torch.no_grad()
def clip_grad_norm_per_parameter(model: nn.Module, max_norm: float) -> None:
    """Scale each parameter's gradient to an L2 norm of at most `max_norm`; 0 disables clipping."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not max_norm or not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, (max_norm / (norms + 1e-6)).clamp(max=1.0).unbind())
