"""Head and loss of DINO, which are lightly's, with their schedules: for the method DINO, and for images beside GTSA.

Shapes: B images, V views of which the first G are global, K prototypes.
"""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.config import DINOConfig
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.methods.baselines import import_lightly


def dino_head(width: int, config: DINOConfig) -> nn.Module:
    """Build DINO's head, (..., width) to logits (..., K): three layers with GELU, L2 norm, L2-normalized prototypes."""
    build = import_lightly("models.modules.heads").DINOProjectionHead
    with warnings.catch_warnings():  # lightly uses torch's deprecated weight_norm
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        head: nn.Module = build(
            width, config.hidden, config.bottleneck, config.prototypes, norm_last_layer=config.norm_last_layer
        )
    return head


def dino_criterion(config: DINOConfig) -> nn.Module:
    """Build lightly's loss; its buffer `center` is the moving average of the teacher's logits."""
    criterion: nn.Module = import_lightly("loss.dino_loss").DINOLoss(
        config.prototypes, student_temp=config.student_temperature, center_momentum=config.center_momentum
    )
    return criterion


def dino_loss(
    criterion: nn.Module, teacher: Tensor, student: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the cross-entropy over all pairs of a global view g and a view v != g, its two parts, and a baseline.

    The parts are the teacher's entropy and the KL divergence. An entropy of 0 (one prototype for all images) or of
    ln K (all prototypes equal) with a divergence of 0 is collapse. The baseline is the smallest loss that a student
    with the same output for all images of this process could reach: the entropy of the teacher's mean distribution.

    The call also updates the center: by the mean over all processes, and at every micro-step.

    Args:
        criterion: Result of `dino_criterion`.
        teacher: Teacher logits, (G, B, K).
        student: Student logits, (V, B, K).
        temperature: Divisor of the teacher's centered logits.
    """
    log_probabilities = torch.log_softmax((teacher - criterion.get_buffer("center")) / temperature, dim=-1)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities).sum(dim=-1).mean()
    mean = probabilities.mean(dim=(0, 1))
    baseline = -torch.xlogy(mean, mean).sum()
    total = criterion(list(teacher), list(student), teacher_temp=temperature)
    terms = {"teacher_entropy": entropy, "divergence": total.detach() - entropy}
    return total, terms | {"loss_constant_baseline": baseline}


def teacher_temperatures(config: DINOConfig, schedule: TrainSchedule) -> np.ndarray:
    """Return the teacher's temperature at each step (steps,): a linear rise, then constant."""
    first, final = config.teacher_temperature, config.final_teacher_temperature
    warmup = schedule.epochs_to_steps(config.temperature_warmup_epochs)
    rise = np.linspace(first, final, warmup, endpoint=False)
    return np.concatenate([rise, np.full(schedule.steps - warmup, final)])


def freeze_prototypes(head: nn.Module, config: DINOConfig, step: int, schedule: TrainSchedule) -> None:
    """Discard the gradients of a head's prototypes during the first `freeze_epochs`."""
    if step < schedule.epochs_to_steps(config.freeze_epochs):
        for parameter in head.get_submodule("last_layer").parameters():
            parameter.grad = None
