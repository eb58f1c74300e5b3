"""Student and teacher of GTSA."""

from typing import NamedTuple

import torch
from torch import Tensor

from gtsa_kit.config import ModelConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Branch, Method
from gtsa_kit.methods.gtsa_heads import Predictor, Projector, RotationPredictor
from gtsa_kit.models.encoder import Encoder, normalize


class Outputs(NamedTuple):
    """What the losses compare; B images, G global and L local views, C channels."""

    global_maps: Tensor
    """(B, G, C, h, w), student."""
    local_maps: Tensor
    """(B, L, C, h', w'), student."""
    turn_logits: Tensor
    """(B, G + L, 4), student."""
    targets: Tensor
    """(B, G, C, h, w), teacher; no gradient."""
    tokens: Tensor
    """(B, G, D, h, w), the student encoder's own maps of the global views; no gradient. For the collapse signals."""


class Student(Branch):
    """Encoder, projector, predictor and rotation predictor: what the optimizer trains."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.arch, drop_path=config.drop_path)
        self.projector = Projector(self.encoder.architecture.width, config.projector_dim)
        self.predictor = Predictor(config.projector_dim)
        self.rotation = RotationPredictor(self.encoder.architecture.width)
        if not config.norm_before_heads:  # the final norm is then outside every loss
            self.encoder.vit.norm.requires_grad_(False)

    def forward(self, images: Tensor, final_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) to maps (N, C, h, w), turn logits (N, 4) and the encoder's maps (N, D, h, w)."""
        features = self.encoder(images, final_norm=final_norm)
        maps = self.predictor(self.projector(features.feature_map))
        return maps, self.rotation(features.embedding), features.feature_map.detach()


class Teacher(Branch):
    """Encoder and projector: a moving average of the student's, never trained."""

    def __init__(self, config: ModelConfig, student: Student) -> None:
        super().__init__()
        self.encoder = Encoder(config.arch)
        self.projector = Projector(self.encoder.architecture.width, config.projector_dim)
        self.load_state_dict({k: v for k, v in student.state_dict().items() if k in self.state_dict()})
        self.requires_grad_(False)

    def forward(self, images: Tensor, final_norm: bool) -> Tensor:
        """(N, 3, H, W) to maps (N, C, h, w)."""
        return self.projector(self.encoder(images, final_norm=final_norm).feature_map)  # type: ignore[no-any-return]


class GTSA(Method):
    """Student and teacher over the views of a batch; the losses over its outputs stand in `losses`."""

    student: Student
    teacher: Teacher

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Student(config)
        self.teacher = Teacher(config, self.student)

    def forward(self, views: Views) -> Outputs:
        """The student sees every view, the teacher the global ones."""
        norm = self.config.norm_before_heads
        global_images, local_images = normalize(views.global_images), normalize(views.local_images)
        batch, n_global = global_images.shape[:2]
        n_local = local_images.shape[1]
        maps, logits, tokens = self.student(global_images.flatten(0, 1), norm)
        global_maps, tokens = maps.unflatten(0, (batch, n_global)), tokens.unflatten(0, (batch, n_global))
        turn_logits = logits.unflatten(0, (batch, n_global))
        if n_local:
            maps, logits, _ = self.student(local_images.flatten(0, 1), norm)
            local_maps = maps.unflatten(0, (batch, n_local))
            turn_logits = torch.cat([turn_logits, logits.unflatten(0, (batch, n_local))], dim=1)
        else:
            local_maps = global_maps[:, :0]
        with torch.no_grad():
            targets = self.teacher(global_images.flatten(0, 1), norm).unflatten(0, (batch, n_global))
        return Outputs(global_maps, local_maps, turn_logits, targets, tokens)
