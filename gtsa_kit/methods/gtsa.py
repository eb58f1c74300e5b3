"""GTSA (arXiv 2304.08014): heads, student, teacher and the training method. The losses are in `gtsa_losses.py`.

Shapes: B images, G global views, L local views, V = G + L, D encoder channels, C projector channels, h x w patches.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtsa_kit.config import ModelConfig, RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Branch, Method, PlotGroup, TrainSchedule
from gtsa_kit.methods.collapse_metrics import rotation_accuracy
from gtsa_kit.methods.gtsa_losses import constant_baseline_loss, gtsa_loss
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.encoder_spec import EncoderSpec

NORM_EPS = 1e-6


class ConvBlock(nn.Module):
    """3x3 convolution, LayerNorm over channels without affine parameters, GELU, and optionally a residual."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.residual = residual

    def forward(self, maps: Tensor) -> Tensor:
        """Transform maps (N, C, h, w) to maps of the same shape."""
        y = self.conv(maps).movedim(1, -1)  # (N, h, w, C)
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=NORM_EPS)).movedim(-1, 1)  # (N, C, h, w)
        return maps + y if self.residual else y


class Projector(nn.Sequential):
    """Projector of student and teacher, (N, D, h, w) to (N, C, h, w): two residual blocks, then a 1x1 convolution."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(ConvBlock(width, True), ConvBlock(width, True), nn.Conv2d(width, out_channels, 1))


class Predictor(nn.Sequential):
    """Predictor of the student, (N, C, h, w) to (N, C, h, w): one block without residual, then a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(ConvBlock(channels, False), nn.Conv2d(channels, channels, 1))


class RotationPredictor(nn.Sequential):
    """Classifier of the student, (N, D) to (N, 4): logits of rot90 k from the mean of the encoder's patch tokens."""

    def __init__(self, width: int) -> None:
        super().__init__(
            *(nn.Linear(width, 768), nn.LayerNorm(768), nn.GELU()),
            *(nn.Linear(768, 768), nn.LayerNorm(768), nn.GELU()),
            *(nn.Linear(768, 128), nn.LayerNorm(128), nn.Linear(128, 4)),
        )


class Student(Branch):
    """Encoder, projector, predictor and rotation predictor, trained by the optimizer."""

    def __init__(self, config: ModelConfig, encoder: EncoderSpec) -> None:
        super().__init__()
        self.encoder = encoder.build(config.drop_path)
        self.projector = Projector(self.encoder.architecture.width, config.projector_dim)
        self.predictor = Predictor(config.projector_dim)
        self.rotation_predictor = RotationPredictor(self.encoder.architecture.width)
        if not config.norm_before_heads:  # no loss depends on the final norm then
            self.encoder.vit.norm.requires_grad_(False)

    def forward(self, images: Tensor, final_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Encode normalized images (N, 3, H, W).

        Returns:
            Predicted maps (N, C, h, w), rotation logits (N, 4) and the encoder's detached feature maps (N, D, h, w).
        """
        features = self.encode(images, final_norm)
        maps = self.predictor(self.projector(features.feature_map))
        return maps, self.rotation_predictor(features.embedding), features.feature_map.detach()


class Teacher(Branch):
    """Encoder and projector: a moving average of the student's, without gradients."""

    def __init__(self, config: ModelConfig, student: Student) -> None:
        super().__init__()
        self.encoder = EncoderSpec.of(student.encoder).build()
        self.projector = Projector(self.encoder.architecture.width, config.projector_dim)
        self.initialize_from(student)

    def forward(self, images: Tensor, final_norm: bool) -> Tensor:
        """Encode normalized images (N, 3, H, W) to target maps (N, C, h, w)."""
        return self.projector(self.encode(images, final_norm).feature_map)  # type: ignore[no-any-return]


class GTSAOutputs(NamedTuple):
    """Outputs of student and teacher for a batch; the first four are the inputs of the losses."""

    global_maps: Tensor
    """Student maps of the global views, (B, G, C, h, w)."""
    local_maps: Tensor
    """Student maps of the local views, (B, L, C, h', w')."""
    rotation_logits: Tensor
    """Student logits of rot90 k, (B, V, 4), global views first."""
    targets: Tensor
    """Teacher maps of the global views, (B, G, C, h, w), without gradient."""
    tokens: Tensor
    """Student encoder's feature maps of the global views, (B, G, D, h, w), without gradient."""


class GTSA(Method):
    """GTSA: region loss, rotation prediction loss and patch correspondence loss between student and teacher."""

    plot_groups = (
        PlotGroup(
            "region and correspondence loss (minus cosine)",
            ("region", "correspondence"),
            baseline="region_loss_constant_baseline",
            limits=(-1, None),
        ),
        PlotGroup("rotation loss (cross-entropy)", ("rotation",), level=math.log(4), limits=(0, None)),
        PlotGroup("rotation accuracy", ("rotation_accuracy",), level=0.25, limits=(0, 1)),
    )
    student: Student
    teacher: Teacher

    def __init__(self, config: RunConfig, encoder: EncoderSpec) -> None:
        super().__init__()
        self.final_norm = config.model.norm_before_heads
        self.loss_config = config.loss
        self.student = Student(config.model, encoder)
        self.teacher = Teacher(config.model, self.student)

    def forward(self, views: Views) -> GTSAOutputs:
        """Run the student on all views and the teacher on the global views."""
        preprocessing = self.student.encoder.preprocessing
        global_images, local_images = (normalize(images, preprocessing) for images in views[:2])
        batch, n_global = global_images.shape[:2]
        n_local = local_images.shape[1]
        maps, logits, tokens = self.student(global_images.flatten(0, 1), self.final_norm)  # (B * G, ...)
        global_maps, tokens = maps.unflatten(0, (batch, n_global)), tokens.unflatten(0, (batch, n_global))
        rotation_logits = logits.unflatten(0, (batch, n_global))  # (B, G, 4)
        if n_local:
            maps, logits, _ = self.student(local_images.flatten(0, 1), self.final_norm)  # (B * L, ...)
            local_maps = maps.unflatten(0, (batch, n_local))
            rotation_logits = torch.cat([rotation_logits, logits.unflatten(0, (batch, n_local))], dim=1)  # (B, V, 4)
        else:
            local_maps = global_maps[:, :0]
        with torch.no_grad():
            targets = self.teacher(global_images.flatten(0, 1), self.final_norm).unflatten(0, (batch, n_global))
        return GTSAOutputs(global_maps, local_maps, rotation_logits, targets, tokens)

    def loss(
        self, outputs: GTSAOutputs, views: Views, schedule_values: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss (equation 4), and its terms and the rotation accuracy to log."""
        losses = gtsa_loss(*outputs[:4], views.boxes, views.rotations, self.loss_config, schedule_values["alpha"])
        terms = {
            "region": losses.region,
            "correspondence": losses.correspondence,
            "rotation": losses.rotation,
            "rotation_accuracy": rotation_accuracy(outputs.rotation_logits, views.rotations),
        }
        return losses.total, terms

    @torch.no_grad()
    def extra_metrics(self, outputs: GTSAOutputs, views: Views) -> dict[str, float]:
        """Return the region loss that a constant student output would reach on this batch."""
        size = self.loss_config.roi_size_global
        baseline = constant_baseline_loss(outputs.targets, views.boxes, views.rotations, size)
        return {"region_loss_constant_baseline": float(baseline)}

    def schedules(self, schedule: TrainSchedule) -> dict[str, np.ndarray]:
        """Return alpha, the weight of the patch correspondence loss: 0 during warm-up steps, then constant."""
        weight = self.loss_config.correspondence_weight
        return {"alpha": np.where(np.arange(schedule.steps) < schedule.warmup, 0.0, weight)}
