"""A training step written in the obvious way: parameters one after the other, no fused or batched kernels."""

import torch
from torch import Tensor, nn

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.gtsa import GTSA
from plain.losses import plain_loss


def plain_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """AdamW as a loop; biases and one-dimensional parameters do not decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    free = [p for name, p in trained if p.ndim < 2 or name.endswith("bias")]
    decayed = [p for name, p in trained if not (p.ndim < 2 or name.endswith("bias"))]
    groups = [{"params": decayed, "weight_decay": 0.04}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-4, betas=config.optim.betas, foreach=False, fused=False)


def plain_step(model: GTSA, optimizer: torch.optim.Optimizer, views: Views, config: RunConfig, half: bool) -> Tensor:
    """Forward, losses, backward, clipping, AdamW, teacher."""
    with torch.autocast(views.boxes.device.type, torch.bfloat16, enabled=half):
        outputs = model(views)
    loss = plain_loss(outputs, views, config.loss, config.loss.correspondence_weight)
    loss.backward()
    plain_update(model, optimizer, config)
    return loss


def plain_update(model: GTSA, optimizer: torch.optim.Optimizer, config: RunConfig) -> None:
    """Clipping, AdamW, teacher."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            norm = parameter.grad.norm()
            if norm > config.optim.clip_grad_norm:
                parameter.grad.mul_(config.optim.clip_grad_norm / (norm + 1e-6))
    optimizer.step()
    optimizer.zero_grad()
    student = dict(model.student.named_parameters())
    with torch.no_grad():
        for name, parameter in model.teacher.named_parameters():
            parameter.mul_(0.996).add_((1 - 0.996) * student[name])
