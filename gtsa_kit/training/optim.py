"""Parameter groups, and schedules as arrays indexed by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from gtsa_kit.config import OptimConfig


@dataclass(frozen=True)
class Schedules:
    """(steps,) float64 each."""

    lr: np.ndarray
    weight_decay: np.ndarray
    momentum: np.ndarray
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The method's own, by name."""

    def at(self, step: int) -> dict[str, float]:
        """All of them at one step, by name, as plain floats (checkpoints hold nothing that is numpy's)."""
        ours = {"lr": self.lr, "weight_decay": self.weight_decay, "momentum": self.momentum}
        return {name: float(values[step]) for name, values in {**ours, **self.more}.items()}


def make_schedules(
    config: OptimConfig, steps: int, warmup: int, batch: int, more: Mapping[str, np.ndarray] | None = None
) -> Schedules:
    """Schedules of a run.

    Args:
        config: Peaks and ends.
        steps: Optimizer steps of the run.
        warmup: Of these, how many warm up.
        batch: Images a step over all devices; the peak learning rate is `config.lr * batch / 256`.
        more: The method's own, (steps,) each.
    """
    peak = config.lr * batch / 256
    rising = peak * np.arange(warmup) / max(warmup, 1)
    return Schedules(
        lr=np.concatenate([rising, cosine(peak, config.final_lr, steps - warmup)]),
        weight_decay=cosine(config.weight_decay, config.final_weight_decay, steps),
        momentum=cosine(config.teacher_momentum, config.final_teacher_momentum, steps),
        more=more or {},
    )


def cosine(start: float, end: float, steps: int) -> np.ndarray:
    """(steps,): half a cosine from `start` at the first step to `end` at the last."""
    progress = np.arange(steps) / max(steps - 1, 1)
    return np.asarray(end + (start - end) * (1 + np.cos(np.pi * progress)) / 2)


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Trained parameters in two groups: weights decay, biases and one-dimensional parameters do not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim < 2 or name.endswith("bias") else decayed).append(parameter)
    return [{"params": decayed, "decay": True}, {"params": free, "decay": False, "weight_decay": 0.0}]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; learning rate and decay are set at every step by `set_hyperparameters`."""
    return torch.optim.AdamW(parameter_groups(model), lr=0.0, betas=config.betas, weight_decay=0.0, fused=True)


def set_hyperparameters(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Put this step's learning rate and weight decay into the groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


@torch.no_grad()
def clip_grad_norm_per_parameter(model: nn.Module, limit: float) -> None:
    """Scale each parameter's gradient down to norm `limit` where it is longer; 0 switches clipping off."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not limit or not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, (limit / (norms + 1e-6)).clamp(max=1.0).unbind())
