"""Settings of a run, section by section. Defaults are the values of the GTSA paper (arXiv 2304.08014)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gtsa_kit.config.channels_section import ChannelsConfig
from gtsa_kit.config.method_sections import DINOConfig, LossConfig, MoCoV3Config
from gtsa_kit.config.types import (
    PATCH,
    AboveZero,
    BelowOne,
    Fraction,
    Loggers,
    MethodName,
    NonNegative,
    Positions,
    Positive,
    Precision,
    RunArch,
    Section,
)
from gtsa_kit.config.views_section import ViewsConfig


class ModelConfig(Section):
    """Settings of encoder and heads."""

    arch: RunArch = "vit_small"
    """Architecture of the encoder: ViT-Ti, S or B with patches of 16 pixels; vit_mini, vit_micro and vit_test are
    smaller. init is that of the weights in `init.weights`, and is set with them."""
    drop_path: BelowOne = 0.1
    """Stochastic depth rate of the student's last block; the teacher has none."""
    projector_dim: Positive = 768
    """Channels of the projected maps that the losses compare."""
    norm_before_heads: bool = True
    """True applies the encoder's final norm before the heads; the preset ade20k does not."""


class InitConfig(Section):
    """Weights that a run starts from, and facts about weights of other tools that the file does not contain."""

    weights: str = ""
    """Weights to start from: a run folder, weights of gtsa-kit or a checkpoint of another tool; empty for random ones.
    The checkpoints of a run keep what a resumed run needs of them."""
    sha256: str = ""
    """SHA-256 of the encoder's weights, found when the run starts; other weights are refused."""
    branch: Literal["teacher", "student"] | None = None
    """Branch of a file that holds both; null for the teacher, or the student of MoCo v3."""
    heads: Positive | None = None
    """Number of attention heads; null for that of a file beside the weights, else by their width."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue that the weights were trained with, 0 to 1; null for that of a file beside them."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue that the weights were trained with; null as for `mean`."""
    positions: Positions | None = None
    """Way to resample the position embeddings of the weights: antialiased as timm, bicubic as transformers, offset as
    DINO; null for that of the code that the names of the weights tell."""
    embedding: Literal["mean", "cls"] | None = None
    """Embedding that the method trains and the run hands on: the mean of the patch tokens, or the class token, which
    GTSA does not train; null for the mean."""
    to_patch: Positive | None = None
    """Side of the patches in pixels that the weights are converted to before the run starts, as `gtsa convert` does;
    null keeps theirs."""


class OptimConfig(Section):
    """Settings of AdamW and of the schedules."""

    lr: NonNegative = 5e-4
    """Peak learning rate for 256 images per step; scaled linearly with the run's images per step."""
    final_lr: NonNegative = 1e-6
    """Learning rate at the end of the cosine schedule."""
    warmup_epochs: NonNegative = 10.0
    """Epochs in which the learning rate rises linearly from 0; half of the run at most."""
    weight_decay: NonNegative = 0.04
    """Weight decay at the start; a cosine leads to `final_weight_decay`."""
    final_weight_decay: NonNegative = 0.4
    """Weight decay at the end."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate from each block of the encoder to the one before it; 1 for one rate."""
    encoder_lr_scale: AboveZero = 1.0
    """Factor on the learning rate of the encoder; heads, which are new where the encoder is not, have the full rate."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """Decay rates of AdamW's averages of gradients and of their squares."""
    clip_grad_norm: NonNegative = 3.0
    """Maximum L2 norm of each parameter's gradient; 0 disables clipping."""
    teacher_momentum: Fraction | Literal["auto"] = "auto"
    """Initial momentum of the teacher's moving average; a cosine leads to `final_teacher_momentum`. auto is the value
    that the method was published with, or less in a run so short that its teacher would keep initial weights."""
    final_teacher_momentum: Fraction | Literal["auto"] = "auto"
    """Momentum of the teacher's moving average at the end. auto is 1. In a run so short that auto lowered the initial
    momentum, auto keeps that momentum and falls to 0 over the last steps: its teacher ends as the student."""


class TrainConfig(Section):
    """Settings of the training loop: length, batch, devices, logs and checkpoints."""

    epochs: Annotated[float, Field(gt=0)] = 100.0
    """Passes over the images."""
    steps: Positive | None = None
    """Number of optimizer steps; overrides `epochs`."""
    freeze_encoder_epochs: NonNegative = 0.0
    """Epochs at the start in which only the heads are trained, with fractions; half of the run at most. For runs that
    start from trained weights."""
    batch_size: Positive | Literal["auto"] = 512
    """Images per device and micro-step; an optimizer step uses batch_size x accumulate x devices images. auto measures
    what fits when a run starts, and config.yaml keeps the result."""
    accumulate: Positive = 1
    """Micro-steps per optimizer step."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Data-loading workers per training process; 0 loads in the training process."""
    augment_on: Literal["cpu", "device"] = "cpu"
    """Device that makes the views: the CPU (in the workers) or the training device (batched)."""
    precision: Precision = "auto"
    """Precision of training; auto is bf16 where it is faster on this machine, else fp32."""
    compile: Literal[True, False, "auto"] = "auto"
    """True compiles encoders and heads with torch; auto does so on a GPU if Triton is installed."""
    activation_checkpointing: bool = False
    """True recomputes encoder blocks in the backward pass: less memory, a third more computation."""
    devices: Positive | Literal["auto"] = "auto"
    """Number of GPUs, or of processes on a CPU; auto uses all GPUs, or one process."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random numbers."""
    log_every: Positive = 10
    """Steps between rows of metrics.jsonl."""
    logger: Loggers = ("tensorboard",)
    """Loggers that get the numbers of these rows, probe values and pictures: tensorboard, wandb, mlflow, several with
    commas, or none."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints; a checkpoint is also written at the end and when the run is interrupted."""
    checkpoint_minutes: AboveZero = 15.0
    """Minutes after which a checkpoint is written, if `checkpoint_every` steps take longer."""
    keep_checkpoints: Positive = 2
    """Number of checkpoints to keep, the newest ones."""
    probe: str = ""
    """Labeled images, class folders or a CSV, on which each checkpoint's k-NN accuracy is measured; empty for none."""
    max_batch_wait: AboveZero = 1800.0
    """Seconds without a batch from the workers after which the run ends with an error."""
    max_unreadable: Fraction = 0.05
    """Fraction of unreadable images above which the run stops."""
    validate_images: Annotated[int, Field(ge=0)] = 20_000
    """Number of images decoded before the first step; a random sample if the folder holds more."""
    max_megapixels: Annotated[float, Field(gt=0, le=178.0)] = 178.0
    """Maximum size of an image in megapixels, checked before decoding."""

    @property
    def micro_batch(self) -> int:
        """Images per device and micro-step, after auto was resolved."""
        assert self.batch_size != "auto", "resolved before it is used"
        return self.batch_size


class RunConfig(Section):
    """All settings of a run."""

    preset: str = "coco"
    """Group of settings to start from: coco (the paper's), ade20k, quick (to test a setup on a CPU), or adapt (to go on
    training weights)."""
    method: MethodName = "gtsa"
    """Method of pretraining: GTSA, or a baseline to compare it with."""
    data: str = ""
    """Source of the training images: a folder, a glob, a list of paths, an archive or a URL."""
    channels: ChannelsConfig = ChannelsConfig()
    init: InitConfig = InitConfig()
    model: ModelConfig = ModelConfig()
    views: ViewsConfig = ViewsConfig()
    loss: LossConfig = LossConfig()
    """Settings of GTSA's losses; other methods ignore them, as GTSA ignores `dino` and `mocov3`."""
    dino: DINOConfig = DINOConfig()
    mocov3: MoCoV3Config = MoCoV3Config()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @property
    def encoder(self) -> str:
        """Name of the encoder, for messages: the architecture of random weights, or the weights to start from."""
        return f"weights of {self.init.weights}" if self.init.weights else self.model.arch

    @model_validator(mode="after")
    def _check_encoder(self) -> "RunConfig":
        """Raise `ValueError` for an architecture beside weights, and for sizes that random weights do not take."""
        if self.init.weights and self.model.arch != "init":
            raise ValueError(
                f"model.arch is that of the weights {self.init.weights}, got {self.model.arch}; omit model.arch"
            )
        if self.init.weights:
            return self  # their patch size is known when they are opened
        if self.model.arch == "init":
            raise ValueError("model.arch=init needs weights; give them with --init, or choose an architecture")
        for name in ("global_size", "local_size"):
            side = getattr(self.views, name)
            if side % PATCH:
                raise ValueError(f"setting views.{name}: {side} is not a multiple of the patch size, {PATCH}")
        return self

    @model_validator(mode="after")
    def _check_channels(self) -> "RunConfig":
        """Raise `ValueError` for settings that only images of 8-bit RGB have."""
        if self.views.channel_drop_p and self.train.augment_on == "device":
            raise ValueError("views.channel_drop_p is not applied by train.augment_on=device; omit one of them")
        if self.channels.is_rgb:
            return self
        if self.train.augment_on == "device":
            raise ValueError("train.augment_on=device makes views of 8-bit RGB alone; omit it, or omit channels.count")
        if self.train.probe:
            raise ValueError("train.probe takes images of 8-bit RGB alone; omit it, or omit channels.count")
        if self.init.mean or self.init.std:
            raise ValueError("init.mean and init.std are for RGB, other channels are measured; omit them")
        return self

    @model_validator(mode="after")
    def _check_method(self) -> "RunConfig":
        """Raise `ValueError` for settings that the method does not support."""
        views, method = self.views, self.method
        if method == "gtsa" and views.hflip_p > 0:
            raise ValueError(
                "views.hflip_p must be 0 for the method gtsa, because its region loss does not model flips"
            )
        if method == "gtsa" and self.loss.rotation_weight > 0 and not views.rotate:
            raise ValueError(
                "loss.rotation_weight must be 0 if views.rotate is false, because there is no rotation to predict; "
                "add --set loss.rotation_weight=0"
            )
        if method != "gtsa" and views.global_crops + views.local_crops < 2:
            raise ValueError(
                f"views.local_crops must be 1 or more with one global crop, because {method} compares views"
            )
        if method == "mocov3" and self.train.batch_size == 1:
            raise ValueError(
                "train.batch_size must be 2 or more for the method mocov3, because it contrasts images of a batch"
            )
        return self
