"""Small task models with random weights of real variance, and their run folders."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import MODEL, TaskModel, save_task_model
from gtsa_kit.models.task_spec import Label, TaskSpec, head_layers

if TYPE_CHECKING:
    from gtsa_kit.models.architecture import Arch

LABELS = (
    *(Label(0, "sky", (70, 130, 180)), Label(3, "road", (128, 64, 128))),
    *(Label(7, "car", (0, 0, 142)), Label(8, "tree", (107, 142, 35)), Label(12, "fence", (190, 153, 153))),
)
"""Five classes; pixel values are not class numbers."""
SMALL_CHANNELS = 32
"""Channels of the test models' heads."""


def task_spec(kind: str, arch: "Arch" = "vit_test", final_norm: bool = True) -> TaskSpec:
    """Return the spec of one of `TASKS`."""
    layers = head_layers(ARCHITECTURES[arch], "segment", "fpn")
    if kind == "classify":
        return TaskSpec("classify", LABELS, "linear", final_norm=final_norm)
    if kind == "linear":
        return TaskSpec("segment", LABELS, "linear", final_norm=final_norm)
    pyramid = {"fpn flat": "flat", "fpn strided": "strided"}[kind]
    return TaskSpec("segment", LABELS, "fpn", layers, final_norm, pyramid, SMALL_CHANNELS)  # type: ignore[arg-type]


TASKS = ("linear", "fpn flat", "fpn strided", "classify")
"""Kinds of task models."""


def random_task_model(spec: TaskSpec, arch: "Arch" = "vit_test", seed: int = 0) -> TaskModel:
    """Build a model in evaluation mode; initial biases, norms and statistics are too regular to reveal errors."""
    torch.manual_seed(seed)
    model = TaskModel(Encoder(arch), spec).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += torch.randn_like(value) * (0.3 if value.ndim < 2 else 0.02)
        for name, buffer in model.head.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
        _spread_logits(model)
    return model


def save_random_task(folder: Path, spec: TaskSpec, arch: "Arch" = "vit_test", seed: int = 0) -> Path:
    """Write the files of a random model's run; return the path of its weights."""
    save_task_model(folder, random_task_model(spec, arch, seed), {"steps": 0})
    return folder / MODEL


def _spread_logits(model: TaskModel) -> None:
    """Scale the last layer so that logits vary by several units, and no class is always the best."""
    noise = torch.nn.functional.interpolate(torch.randn(4, 3, 12, 18), scale_factor=8, mode="bilinear")
    logits = model(noise).transpose(0, 1).flatten(1)  # (K, N)
    classifier, means = model.head.classifier, logits.mean(dim=1)
    factor = 3 / (logits - means[:, None]).std()
    classifier.bias.copy_((classifier.bias - means) * factor)
    classifier.weight *= factor
