"""The settings themselves, section by section, with the paper's values as defaults."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PATCH = 16
"""Pixels along one side of a patch, for every architecture here."""

Arch = Literal["vit_test", "vit_mini", "vit_tiny", "vit_small", "vit_base"]
Precision = Literal["auto", "fp32", "bf16"]
Method = Literal["gtsa", "dino", "mocov3"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
AboveZero = Annotated[float, Field(gt=0.0)]
PatchMultiple = Annotated[int, Field(gt=0, multiple_of=PATCH)]


class Section(BaseModel):
    """What every group of settings shares: immutable, and a misspelt key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    """Encoder and heads."""

    arch: Arch = "vit_small"
    drop_path: BelowOne = 0.1
    """Highest rate of stochastic depth in the student; the teacher has none."""
    projector_dim: Positive = 768
    """Channels of the maps that the losses compare."""
    norm_before_heads: bool = True
    """Whether the heads see tokens after the encoder's final norm (the ADE20K preset: no)."""


class ViewsConfig(Section):
    """Crops, turns and photometric noise: one image in, G + L views out."""

    global_crops: Annotated[int, Field(ge=1)] = 2
    local_crops: Annotated[int, Field(ge=0)] = 8
    global_size: PatchMultiple = 224
    local_size: PatchMultiple = 96
    global_area: tuple[Fraction, Fraction] = (0.3, 1.0)
    local_area: tuple[Fraction, Fraction] = (0.1, 0.3)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    min_overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Least overlap of a local crop with every global crop, as a share of the image."""
    min_global_overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    rotate: bool = True
    """Whether each view is turned by 0, 90, 180 or 270 degrees."""
    hflip_p: Fraction = 0.0
    """Chance of a view to be mirrored left to right; not for GTSA, whose regions know turns and no mirrors."""
    jitter_strength: NonNegative = 1.0
    """Multiplies brightness 0.8, contrast 0.8, saturation 0.8, hue 0.2."""
    jitter_p: Fraction = 0.8
    grayscale_p: Fraction = 0.2
    blur_p: Fraction = 0.2
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise_std: NonNegative = 0.0
    """Gaussian noise, in units of the 0 to 1 range. The paper names it and gives no strength, so it is off."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> "ViewsConfig":
        for name in ("global_area", "local_area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"views.{name} must be two positive numbers, the lower one first; got [{low}, {high}]")
        if max(self.min_overlap, self.min_global_overlap) > self.global_area[0]:
            raise ValueError(
                f"no overlap can be larger than the smallest global crop, views.global_area[0] = {self.global_area[0]}"
            )
        if 0.2 * self.jitter_strength > 0.5:
            raise ValueError("views.jitter_strength must be at most 2.5: hue can turn by half a circle and no more")
        return self


class LossConfig(Section):
    """Weights and sizes of the three losses."""

    correspondence_weight: NonNegative = 0.5
    """alpha."""
    rotation_weight: NonNegative = 0.5
    """beta."""
    roi_size_global: Positive = 10
    """RoIAlign grid of an overlap seen by a global student view (cells a side)."""
    roi_size_local: Positive = 4
    match_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """K of the patch correspondence, as a share of the student's patches: 98 of 196, 18 of 36."""


class DINOConfig(Section):
    """Head and loss of DINO; the published ones of ViT-S."""

    prototypes: Annotated[int, Field(ge=2)] = 65_536
    hidden: Positive = 2048
    bottleneck: Positive = 256
    norm_last_layer: bool = False
    """Whether prototypes stay of unit length: steadier, and published for ViT-B only."""
    freeze_epochs: NonNegative = 1.0
    """For how long prototypes stay where they were drawn."""
    student_temperature: AboveZero = 0.1
    teacher_temperature: AboveZero = 0.04
    """At the start; rises to `final_teacher_temperature` over `temperature_warmup_epochs`."""
    final_teacher_temperature: AboveZero = 0.07
    temperature_warmup_epochs: NonNegative = 30.0
    center_momentum: Fraction = 0.9


class MoCoV3Config(Section):
    """Heads and loss of MoCo v3; the published ones of its ViTs."""

    hidden: Positive = 4096
    output: Positive = 256
    temperature: AboveZero = 0.2
    freeze_patch_embed: bool = True
    """Whether the patch projection stays as it was drawn, which keeps training steady."""


class OptimConfig(Section):
    """AdamW and the schedules."""

    lr: NonNegative = 5e-4
    """Peak learning rate for 256 images a step; scaled with the images a step that the run really has."""
    final_lr: NonNegative = 1e-6
    warmup_epochs: NonNegative = 10.0
    weight_decay: NonNegative = 0.04
    final_weight_decay: NonNegative = 0.4
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    clip_grad_norm: NonNegative = 3.0
    """Largest gradient norm of one parameter; 0 switches clipping off."""
    teacher_momentum: Fraction = 0.996
    """Of the teacher's moving average, at the start; ends at `final_teacher_momentum`."""
    final_teacher_momentum: Fraction = 1.0


class TrainConfig(Section):
    """How long, how many at a time, what is kept."""

    epochs: Annotated[float, Field(gt=0)] = 100.0
    steps: Positive | None = None
    """Optimizer steps in place of epochs."""
    batch_size: Positive = 512
    """Images that one device takes at a time; a step sees batch_size x accumulate x devices of them."""
    accumulate: Positive = 1
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    augment_on: Literal["cpu", "device"] = "cpu"
    """Who makes the views: the processes that load images, or the device, a batch at a time."""
    precision: Precision = "auto"
    compile: Literal[True, False, "auto"] = "auto"
    """Whether torch compiles encoders and heads; auto: on a GPU, where Triton is there to do it."""
    activation_checkpointing: bool = False
    """Whether blocks of the encoder are run again for their gradients (activation checkpointing): less memory, a third
    more work."""
    devices: Positive | Literal["auto"] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 500
    """Steps between checkpoints; one is also written at the end and when the run is interrupted."""
    keep_checkpoints: Positive = 2
    max_unreadable: Fraction = 0.05
    """Share of unreadable images above which the run stops."""
    validate_images: Annotated[int, Field(ge=0)] = 20_000
    """How many images to decode before the first step; of a larger folder, a random sample of this size."""
    max_megapixels: Annotated[float, Field(gt=0, le=178.0)] = 178.0
    """Larger images are refused before they are decoded."""


class RunConfig(Section):
    """Everything that a run depends on, bar the images themselves."""

    preset: str = "coco"
    method: Method = "gtsa"
    data: str = ""
    """The folder, or the text file of paths, that was trained on."""
    model: ModelConfig = ModelConfig()
    views: ViewsConfig = ViewsConfig()
    loss: LossConfig = LossConfig()
    """Of GTSA alone, as the next two are of their methods alone."""
    dino: DINOConfig = DINOConfig()
    mocov3: MoCoV3Config = MoCoV3Config()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _views_fit_the_method(self) -> "RunConfig":
        views, method = self.views, self.method
        if method == "gtsa" and views.hflip_p > 0:
            raise ValueError(
                "views.hflip_p must be 0 for the method gtsa: its regions know quarter turns and no mirrors"
            )
        if method == "gtsa" and self.loss.rotation_weight > 0 and not views.rotate:
            raise ValueError(
                "loss.rotation_weight must be 0 where views.rotate is false, since there is no turn to name: "
                "add --set loss.rotation_weight=0"
            )
        if method != "gtsa" and views.global_crops + views.local_crops < 2:
            raise ValueError(f"views.local_crops must be 1 or more beside one global crop: {method} compares views")
        if method == "mocov3" and self.train.batch_size < 2:
            raise ValueError("train.batch_size must be 2 or more for the method mocov3: it tells images apart")
        return self
