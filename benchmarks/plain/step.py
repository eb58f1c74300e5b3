"""Training step in a straightforward way: one parameter after the other, without fused or batched kernels."""

import torch
from torch import Tensor, nn

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.gtsa import GTSA
from plain.losses import plain_loss


def plain_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Build AdamW without fused kernels; biases and 1-D parameters have no weight decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    undecayed = [p for name, p in trained if p.ndim < 2 or name.endswith("bias")]
    decayed = [p for name, p in trained if not (p.ndim < 2 or name.endswith("bias"))]
    groups = [{"params": decayed, "weight_decay": 0.04}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-4, betas=config.optim.betas, foreach=False, fused=False)


def plain_step(model: GTSA, optimizer: torch.optim.Optimizer, views: Views, config: RunConfig, half: bool) -> Tensor:
    """Run one training step and return its loss; `half` runs the forward pass in bf16."""
    with torch.autocast(views.boxes.device.type, torch.bfloat16, enabled=half):
        outputs = model(views)
    loss = plain_loss(outputs, views, config.loss, config.loss.correspondence_weight)
    loss.backward()
    plain_update(model, optimizer, config)
    return loss


def plain_update(model: GTSA, optimizer: torch.optim.Optimizer, config: RunConfig) -> None:
    """Clip gradients, update the student with AdamW, then the teacher."""
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
