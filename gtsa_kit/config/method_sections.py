"""Settings of each method: GTSA's losses, and the heads and losses of DINO and MoCo v3."""

from typing import Annotated, Literal

from pydantic import Field

from gtsa_kit.config.types import AboveZero, Fraction, NonNegative, Positive, Section

Pool = Literal["mean", "cls"]


class LossConfig(Section):
    """Settings of the three GTSA losses, and of terms beside them that are not in the paper and off by default."""

    correspondence_weight: NonNegative = 0.5
    """Weight alpha of the patch correspondence loss after warm-up."""
    rotation_weight: NonNegative = 0.5
    """Weight beta of the rotation prediction loss."""
    roi_size_global: Positive | Literal["auto"] = "auto"
    """Side of the RoIAlign grid for the overlap with a global student view; auto is 10 for maps of more than 100
    patches, else 4, as published."""
    roi_size_local: Positive | Literal["auto"] = "auto"
    """Side of the RoIAlign grid for the overlap with a local student view; auto is chosen as for global ones."""
    match_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Number K of best matches in the patch correspondence loss, as a fraction of the student's patches."""
    variance_weight: NonNegative = 0.0
    """Weight of the hinge on the standard deviation of each channel of the student's projected patches, which keeps it
    above 1 (VICRegL, arXiv 2210.01571)."""
    covariance_weight: NonNegative = 0.0
    """Weight of the squared covariances of these channels (VICRegL)."""
    target_center_momentum: Fraction = 0.0
    """Momentum of the moving average of the teacher's projected patches, which is subtracted from them so that the
    direction they all share does not fill the cosines; 0 subtracts nothing."""
    image_weight: NonNegative = 0.0
    """Weight of DINO's loss on the class token beside those on the patches, as in iBOT (arXiv 2111.07832); the section
    `dino` has its settings. Needs lightly."""


class DINOConfig(Section):
    """Settings of DINO's head and loss; defaults are those published for ViT-S."""

    pool: Pool = "mean"
    """Vector that the head reads, and that the encoder then gives as its embedding: the mean of the patches, which
    trains each of them, or the class token (cls), as published. Weights that a run starts from have --embedding."""
    prototypes: Annotated[int, Field(ge=2)] = 65_536
    """Output dimension of the head."""
    hidden: Positive = 2048
    """Width of the head's hidden layers."""
    bottleneck: Positive = 256
    """Width of the layer before the prototypes."""
    norm_last_layer: bool = False
    """True keeps the prototypes' norms at 1, which is more stable; published for ViT-B only."""
    freeze_epochs: NonNegative = 1.0
    """Epochs during which the prototypes are not trained."""
    student_temperature: AboveZero = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: AboveZero = 0.04
    """Initial temperature; rises linearly to `final_teacher_temperature` over `temperature_warmup_epochs`."""
    final_teacher_temperature: AboveZero = 0.07
    """Temperature of the teacher's softmax after its warm-up."""
    temperature_warmup_epochs: NonNegative = 30.0
    """Epochs in which the teacher's temperature rises."""
    center_momentum: Fraction = 0.9
    """Momentum of the moving average of the teacher's outputs, which are centered by it."""


class MoCoV3Config(Section):
    """Settings of MoCo v3's heads and loss; defaults are those published for its ViTs."""

    pool: Pool = "mean"
    """The same as `dino.pool`; published is cls."""
    hidden: Positive = 4096
    """Width of the hidden layers of projector and predictor."""
    output: Positive = 256
    """Dimension of queries and keys."""
    temperature: AboveZero = 0.2
    """Temperature of the contrastive loss."""
    freeze_patch_embed: bool = True
    """True does not train the patch embedding (random weights), which stabilizes training."""
