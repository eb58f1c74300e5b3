"""Reference training steps of the baselines, written with timm and lightly."""

import warnings

import timm
import torch
from lightly.loss import DINOLoss
from lightly.models.modules.heads import DINOProjectionHead, MoCoProjectionHead
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views

Step = tuple[Tensor, dict[str, Tensor]]
"""Loss, and gradients by this package's parameter names."""


def backbone(weights: dict[str, Tensor], prefix: str) -> nn.Module:
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, embed_dim=64, depth=2, num_heads=2
    )
    model.load_state_dict(part(weights, f"{prefix}.encoder.vit."))
    return model


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def embed(model: nn.Module, view: Tensor, pool: str) -> Tensor:
    pixels = tv.normalize(view.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    tokens = model.forward_features(pixels)
    return tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)


def every_view(views: Views) -> list[Tensor]:
    return [*views.global_images.unbind(1), *views.local_images.unbind(1)]


def gradients(**modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"student.{prefix}.{name}": parameter.grad
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def dino_step(weights: dict[str, Tensor], views: Views, config: RunConfig, temperature: float) -> Step:
    d, pool = config.dino, config.dino.pool
    heads = []
    for prefix in ("student.head.", "teacher.head."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # raised by torch's old weight_norm
            head = DINOProjectionHead(64, d.hidden, d.bottleneck, d.prototypes, norm_last_layer=d.norm_last_layer)
        head.load_state_dict(part(weights, prefix))
        heads.append(head)
    student, teacher = backbone(weights, "student"), backbone(weights, "teacher")
    criterion = DINOLoss(d.prototypes, student_temp=0.1, center_momentum=0.9)
    criterion.load_state_dict(part(weights, "criterion."))
    with torch.no_grad():
        teacher_out = [heads[1](embed(teacher, view, pool)) for view in views.global_images.unbind(1)]
    student_out = [heads[0](embed(student, view, pool)) for view in every_view(views)]
    loss = criterion(teacher_out, student_out, teacher_temp=temperature)
    loss.backward()
    return loss.detach(), gradients(**{"encoder.vit": student, "head": heads[0]})


def moco_head(weights: dict[str, Tensor], prefix: str, inputs: int, config: RunConfig, layers: int) -> nn.Module:
    hidden, out = config.mocov3.hidden, config.mocov3.output
    head = MoCoProjectionHead(inputs, hidden, out, num_layers=layers, batch_norm=True)
    head.layers[-1] = nn.BatchNorm1d(out, affine=False)  # as published for MoCo v3
    head.load_state_dict(part(weights, prefix))
    return head


def moco_step(weights: dict[str, Tensor], views: Views, config: RunConfig) -> Step:
    student, teacher = backbone(weights, "student"), backbone(weights, "teacher")
    projector = moco_head(weights, "student.head.", 64, config, 3)
    predictor = moco_head(weights, "student.predictor.", config.mocov3.output, config, 2)
    pool = config.mocov3.pool
    momentum = moco_head(weights, "teacher.head.", 64, config, 3)
    queries = [F.normalize(predictor(projector(embed(student, view, pool))), dim=1) for view in every_view(views)]
    with torch.no_grad():
        keys = [F.normalize(momentum(embed(teacher, view, pool)), dim=1) for view in views.global_images.unbind(1)]
    tau = config.mocov3.temperature
    pairs = [(q, k) for g, k in enumerate(keys) for v, q in enumerate(queries) if v != g]
    terms = [2 * tau * F.cross_entropy(q @ k.T / tau, torch.arange(len(q))) for q, k in pairs]
    loss = 2 * sum(terms) / len(terms)
    loss.backward()
    return loss.detach(), gradients(**{"encoder.vit": student, "head": projector, "predictor": predictor})
