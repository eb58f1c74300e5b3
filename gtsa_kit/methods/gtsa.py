"""GTSA (arXiv 2304.08014): student, teacher and the training method. The losses are in `gtsa_losses.py`.

Shapes: B images, G global views, L local views, V = G + L, D encoder channels, C projector channels, h x w patches.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.config import ModelConfig, RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.additions import TargetCenter, variance_covariance
from gtsa_kit.methods.base import Branch, Method, PlotGroup, TrainSchedule
from gtsa_kit.methods.collapse_metrics import rotation_accuracy
from gtsa_kit.methods.dino_loss import dino_criterion, dino_head, dino_loss, freeze_prototypes, teacher_temperatures
from gtsa_kit.methods.gtsa_heads import Predictor, Projector, RotationPredictor
from gtsa_kit.methods.gtsa_losses import constant_baseline_loss, gtsa_loss, roi_sizes
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.encoder_spec import EncoderSpec

ImageHead = Callable[[int], nn.Module]
"""Function from the encoder's width to a head (N, D) -> (N, K) on the class token."""


class StudentOutputs(NamedTuple):
    """Outputs of the student for N views of one size."""

    maps: Tensor
    """Predicted maps, (N, C, h, w)."""
    rotation_logits: Tensor
    """Logits of rot90 k, (N, 4)."""
    projected: Tensor
    """Projected maps, before the predictor, (N, C, h, w)."""
    tokens: Tensor
    """The encoder's feature maps, (N, D, h, w), without gradient."""
    image_logits: Tensor | None
    """Logits of prototypes of the class token, (N, K); None without a head for it."""


class Student(Branch):
    """Encoder, projector, predictor and rotation predictor, trained by the optimizer; a head on the class token too."""

    def __init__(self, config: ModelConfig, encoder: EncoderSpec, image_head: ImageHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder.build(config.drop_path)
        self.projector = Projector(self.encoder.architecture.width, config.projector_dim)
        self.predictor = Predictor(config.projector_dim)
        self.rotation_predictor = RotationPredictor(self.encoder.architecture.width)
        self.image_head = image_head(self.encoder.architecture.width) if image_head else None
        if not config.norm_before_heads:  # no loss depends on the final norm then
            self.encoder.vit.norm.requires_grad_(False)

    def forward(self, images: Tensor, final_norm: bool) -> StudentOutputs:
        """Encode normalized images (N, 3, H, W)."""
        features = self.encode(images, final_norm)
        projected = self.projector(features.feature_map)
        return StudentOutputs(
            self.predictor(projected),
            self.rotation_predictor(features.embedding),
            projected,
            features.feature_map.detach(),
            self.image_head(features.class_token) if self.image_head else None,
        )


class Teacher(Branch):
    """Encoder, projector and head on the class token: a moving average of the student's, without gradients."""

    def __init__(self, config: ModelConfig, student: Student, image_head: ImageHead | None = None) -> None:
        super().__init__()
        self.encoder = EncoderSpec.of(student.encoder).build()
        self.projector = Projector(self.encoder.architecture.width, config.projector_dim)
        self.image_head = image_head(self.encoder.architecture.width) if image_head else None
        self.initialize_from(student)

    def forward(self, images: Tensor, final_norm: bool) -> tuple[Tensor, Tensor | None]:
        """Encode normalized images (N, 3, H, W) to target maps (N, C, h, w) and logits of the class token (N, K)."""
        features = self.encode(images, final_norm)
        logits = self.image_head(features.class_token) if self.image_head else None
        return self.projector(features.feature_map), logits


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
    projected: Tensor | None = None
    """Student's projected maps of the global views, before the predictor, (B, G, C, h, w); None without a term on them,
    since outputs in bf16 are copied to float32."""
    image_logits: Tensor | None = None
    """Student's logits of the class token, (V, B, K), global views first; None without that term."""
    image_targets: Tensor | None = None
    """Teacher's logits of the class token, (G, B, K), without gradient; None without that term."""


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
        self.dino_config = config.dino
        self.has_variance_terms = bool(config.loss.variance_weight or config.loss.covariance_weight)
        image_head = self._image_head(encoder) if config.loss.image_weight else None
        self.student = Student(config.model, encoder, image_head)
        self.teacher = Teacher(config.model, self.student, image_head)
        momentum = config.loss.target_center_momentum
        self.target_center = TargetCenter(config.model.projector_dim, momentum) if momentum else None
        self.image_criterion = dino_criterion(config.dino) if image_head else None

    def _image_head(self, encoder: EncoderSpec) -> ImageHead:
        """Return the function that builds the head on the class token.

        Raises:
            ValueError: The encoder has none.
        """
        if not encoder.architecture.has_class_token:
            raise ValueError(f"{encoder.architecture.name} has no class token, which loss.image_weight trains; omit it")
        return partial(dino_head, config=self.dino_config)

    def forward(self, views: Views) -> GTSAOutputs:
        """Run the student on all views and the teacher on the global views."""
        preprocessing = self.student.encoder.preprocessing
        global_images, local_images = (normalize(images, preprocessing) for images in views[:2])
        batch = len(global_images)
        student = [self.student(global_images.flatten(0, 1), self.final_norm)]  # (B * G, ...)
        if local_images.shape[1]:
            student.append(self.student(local_images.flatten(0, 1), self.final_norm))  # (B * L, ...)
        with torch.no_grad():
            targets, image_targets = self.teacher(global_images.flatten(0, 1), self.final_norm)
            targets = by_image(targets, batch)
            if self.target_center is not None:
                targets = self.target_center(targets)
        maps = [by_image(outputs.maps, batch) for outputs in student]
        rotation_logits = [by_image(outputs.rotation_logits, batch) for outputs in student]
        logits = [by_image(outputs.image_logits, batch) for outputs in student if outputs.image_logits is not None]
        return GTSAOutputs(
            global_maps=maps[0],
            local_maps=maps[1] if maps[1:] else maps[0][:, :0],
            rotation_logits=torch.cat(rotation_logits, dim=1),  # (B, V, 4)
            targets=targets,
            tokens=by_image(student[0].tokens, batch),
            projected=by_image(student[0].projected, batch) if self.has_variance_terms else None,
            image_logits=torch.cat(logits, dim=1).transpose(0, 1) if logits else None,
            image_targets=None if image_targets is None else by_image(image_targets, batch).transpose(0, 1),
        )

    def loss(
        self, outputs: GTSAOutputs, views: Views, schedule_values: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss (equation 4 and what is added to it), its terms, and the rotation accuracy to log."""
        config = self.loss_config
        losses = gtsa_loss(*outputs[:4], views.boxes, views.rotations, config, schedule_values["alpha"])
        total, terms = (
            losses.total,
            {
                "region": losses.region,
                "correspondence": losses.correspondence,
                "rotation": losses.rotation,
                "rotation_accuracy": rotation_accuracy(outputs.rotation_logits, views.rotations),
            },
        )
        if outputs.projected is not None:
            variance, covariance = variance_covariance(outputs.projected)
            total = total + config.variance_weight * variance + config.covariance_weight * covariance
            terms |= {"variance": variance, "covariance": covariance}
        if self.image_criterion is not None:
            assert outputs.image_targets is not None
            assert outputs.image_logits is not None
            pair = outputs.image_targets, outputs.image_logits
            image, parts = dino_loss(self.image_criterion, *pair, schedule_values["teacher_temperature"])
            total = total + config.image_weight * image
            terms |= {"image": image, "image_teacher_entropy": parts["teacher_entropy"]}
        return total, terms

    @torch.no_grad()
    def extra_metrics(self, outputs: GTSAOutputs, views: Views) -> dict[str, float]:
        """Return the region loss that a constant student output would reach on this batch."""
        size, _ = roi_sizes(self.loss_config, outputs.global_maps, outputs.local_maps)
        baseline = constant_baseline_loss(outputs.targets, views.boxes, views.rotations, size)
        return {"region_loss_constant_baseline": float(baseline)}

    def schedules(self, schedule: TrainSchedule) -> dict[str, np.ndarray]:
        """Return alpha, the weight of the patch correspondence loss: 0 during warm-up steps, then constant."""
        weight = self.loss_config.correspondence_weight
        alpha = {"alpha": np.where(np.arange(schedule.steps) < schedule.warmup, 0.0, weight)}
        if self.image_criterion is None:
            return alpha
        return alpha | {"teacher_temperature": teacher_temperatures(self.dino_config, schedule)}

    def after_backward(self, step: int, schedule: TrainSchedule) -> None:
        """Discard the gradients of prototypes at first, as DINO does, and those of a frozen encoder."""
        super().after_backward(step, schedule)
        if self.student.image_head is not None:
            freeze_prototypes(self.student.image_head, self.dino_config, step, schedule)


def by_image(values: Tensor, batch: int) -> Tensor:
    """Return values (B * V, ...) of views as (B, V, ...)."""
    return values.reshape(batch, -1, *values.shape[1:])
