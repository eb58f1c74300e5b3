"""Optimizer, parameter groups, gradient clipping, and schedules as arrays indexed by step."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from gtsa_kit.config import PUBLISHED_MOMENTUM, OptimConfig
from gtsa_kit.methods.base import Method

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
    frozen: int = 0,
) -> HyperparameterSchedules:
    """Build the schedules of a run.

    Args:
        config: Start and end values.
        steps: Optimizer steps of the run.
        warmup: Warm-up steps, part of `steps`.
        batch: Images per step over all processes; the peak learning rate is `config.lr * batch / 256`.
        method: The method's own schedules, (steps,) each.
        published_momentum: Value of `PUBLISHED_MOMENTUM` for the method, for a teacher momentum of "auto".
        frozen: First steps, part of `steps`, in which the teacher's encoder does not change.
    """
    peak = config.lr * batch / 256
    rise = peak * np.arange(warmup) / max(warmup, 1)
    return HyperparameterSchedules(
        lr=np.concatenate([rise, cosine(peak, config.final_lr, steps - warmup)]),
        weight_decay=cosine(config.weight_decay, config.final_weight_decay, steps),
        teacher_momentum=momentum_schedule(config, published_momentum, steps, frozen),
        method=method or {},
    )


def momentum_schedule(config: OptimConfig, published: float, steps: int, frozen: int = 0) -> np.ndarray:
    """Return the teacher's momentum (steps,); see `make_schedules`.

    Where auto lowered it for a short run, it falls to 0 over as many last steps as the moving average covers, so that
    the teacher ends as the student: in so few steps an average gains nothing, and lags behind.
    """
    first, last = teacher_momenta(config, published, steps, frozen)
    momenta = cosine(first, last, steps)
    if config.teacher_momentum == config.final_teacher_momentum == "auto" and first < published:
        covered = min(math.ceil(1 / (1 - first)), steps)
        momenta[steps - covered :] = np.linspace(first, 0, covered)
    return momenta


def teacher_momenta(config: OptimConfig, published: float, steps: int, frozen: int = 0) -> tuple[float, float]:
    """Return the start and end of the cosine of the teacher's momentum; see `make_schedules`."""
    first, last = config.teacher_momentum, config.final_teacher_momentum
    if first != "auto":
        return first, 1.0 if last == "auto" else last
    first = auto_momentum(published, 1.0 if last == "auto" else last, steps, frozen)
    if last != "auto":
        return first, last
    return first, 1.0 if first == published else first


def auto_momentum(published: float, final: float, steps: int, frozen: int = 0) -> float:
    """Return the teacher's initial momentum for a run of `steps` steps, of which the encoder is frozen in the first.

    It is the published value if that leaves less than `MAX_INITIAL_SHARE` of initial weights in the teacher at the end.
    A shorter run gets the largest smaller value that does, in four decimals: about 1 - 13.8 / steps.
    """

    def share(momentum: float) -> float:
        return initial_share(cosine(momentum, final, steps)[frozen:])

    if share(published) < MAX_INITIAL_SHARE:
        return published
    # The share grows with the initial momentum, so the values that are small enough come first. In a run with few steps
    # after the frozen ones not even 0 is small enough; it is used all the same.
    ten_thousandths = range(round(published * 1e4))
    count = bisect_left(ten_thousandths, MAX_INITIAL_SHARE, key=lambda value: share(value / 1e4))
    return max(count - 1, 0) / 1e4


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


def layer_groups(
    model: nn.Module, vit: nn.Module, layer_decay: float, encoder_scale: float = 1.0
) -> list[dict[str, object]]:
    """Split trained parameters into groups by weight decay and by layer, the learning rates of which differ.

    The layers of the ViT of `model` and their factors (`lr_scale`) are timm's, times `encoder_scale`: 1 for the last
    block and the final norm, `layer_decay` for the block before them, its square for the next, down to the patch and
    position embeddings. The factor of the heads is 1.
    """
    from timm.optim import param_groups_layer_decay

    by_layer = param_groups_layer_decay(vit, weight_decay=1.0, layer_decay=layer_decay)
    groups = [
        {
            "params": g["params"],
            "decay": g["weight_decay"] > 0,
            "weight_decay": 0.0,
            "lr_scale": encoder_scale * g["lr_scale"],
        }
        for g in by_layer
    ]
    encoder = {id(parameter) for parameter in vit.parameters()}
    for group in parameter_groups(model):
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in encoder]  # type: ignore[attr-defined]
        groups.append(group)
    return groups


def make_optimizer(model: Method, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over groups of parameters; `set_hyperparameters` sets learning rates and decay at every step."""
    one_rate = config.layer_decay == config.encoder_lr_scale == 1
    if one_rate:
        groups = parameter_groups(model)
    else:
        groups = layer_groups(model, model.student.encoder.vit, config.layer_decay, config.encoder_lr_scale)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, weight_decay=0.0, fused=True)


def set_hyperparameters(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set the learning rate of all groups, with their factors, and the weight decay of the groups that decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


@torch.no_grad()
def clip_grad_norm_per_parameter(model: nn.Module, max_norm: float) -> None:
    """Scale each parameter's gradient to an L2 norm of at most `max_norm`; 0 disables clipping."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not max_norm or not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, (max_norm / (norms + 1e-6)).clamp(max=1.0).unbind())
