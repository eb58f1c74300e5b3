"""Settings of fine-tuning, section by section. "auto" is replaced when a run starts, by the data and the machine."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from gtsa_kit.config.channels_section import ChannelsConfig
from gtsa_kit.config.sections import InitConfig
from gtsa_kit.config.types import (
    AboveZero,
    Arch,
    BelowOne,
    Fraction,
    Loggers,
    NonNegative,
    Positive,
    Precision,
    Section,
)

Auto = Literal["auto"]
TaskName = Literal["segment", "classify", "detect"]
Value = TypeVar("Value")


def resolved(value: Value | Auto) -> Value:
    """Return the value of a setting in which auto was replaced."""
    assert value != "auto", "replaced when the run starts"
    return value


class LabeledDataConfig(Section):
    """Labeled images of a run."""

    source: str = ""
    """Folder, CSV or JSON file of labeled images."""
    images: str = ""
    """Folder of the images that a JSON file of objects names."""
    val: str = ""
    """JSON file of the validation images, beside one of the training images; empty to split them."""
    labels: str = ""
    """File with names and colors of the classes; empty to find them in the masks."""
    ignore: tuple[str, ...] = ()
    """Void classes of masks: indices, colors or names."""
    mask_suffix: str = ""
    """End of the masks' names that the images' lack."""
    val_split: str = "0.2"
    """Images for validation where the data has no split: a fraction, and after a colon how they are chosen."""
    max_missing: Fraction = 0.05
    """Largest share of pairs or files that may be unusable."""


class StartConfig(InitConfig):
    """Encoder that a run starts from: trained weights, and facts that their file does not contain; or a random one."""

    random: Arch | None = None
    """Architecture of random weights; null for trained ones."""
    drop_path: BelowOne = 0.0
    """Stochastic depth rate of the last block while the encoder is trained."""


class HeadConfig(Section):
    """Head of a task model."""

    name: Literal["auto", "fpn", "linear", "eomt", "mask-rcnn", "faster-rcnn"] = "auto"
    """Head: fpn, linear or eomt for pixels, linear for classes, mask-rcnn, eomt (instances) or faster-rcnn (boxes
    alone) for objects; auto is the first of these that the labels allow."""
    layers: tuple[int, ...] | Auto = "auto"
    """Blocks whose maps the head takes; auto is the last of each quarter of the depth for fpn and detectors, else the
    last map."""
    blocks: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Last blocks of the ViT that the head eomt takes over; auto is all behind the one in `layers`."""
    final_norm: bool = True
    """True applies the final norm of the encoder to the maps, as exported encoders do."""
    pyramid: Literal["flat", "strided"] = "flat"
    """Strides of the maps in the head fpn: all of a patch, or a quarter to two patches."""
    channels: Positive | Auto = "auto"
    """Channels of the head fpn before its classifier, or of a detector; auto is 128, or 256 for a detector on a GPU."""
    dropout: BelowOne = 0.1
    """Rate of dropout before the classifier of the head fpn."""


class DetectorConfig(Section):
    """Sizes of a detector, and its numbers of candidates; auto takes fewer on a CPU."""

    box_channels: Positive | Auto = "auto"
    """Width of the linear layers that classify a box; auto is 1,024, or 512 on a CPU."""
    anchor_sizes: tuple[Positive, ...] | Auto = "auto"
    """Side of the square anchors of each of the five levels in pixels; auto is by the size of inputs, 32 to 512 for
    800 pixels."""
    pre_nms: Positive | Auto = "auto"
    """Candidates of a level for proposals; auto is 1,000, or 300 on a CPU."""
    proposals: Positive | Auto = "auto"
    """Proposals of an image; auto is 1,000, or 300 on a CPU."""
    train_proposals: Positive | Auto = "auto"
    """Candidates of a level, and proposals of an image, in training; auto is 2,000, or 500 on a CPU."""
    train_boxes: Positive | Auto = "auto"
    """Proposals of an image that the losses use; auto is 512, or 128 on a CPU."""
    nms: Fraction = 0.5
    """IoU above which a detection suppresses another one of its class."""
    score_threshold: Fraction = 0.05
    """Score that a detection exceeds."""
    max_detections: Positive = 100
    """Number of detections of an image."""


class FinetuneOptimConfig(Section):
    """Settings of AdamW and of the learning rate."""

    lr: NonNegative | Auto = "auto"
    """Peak learning rate; auto is 1e-3 for a head alone, else 1e-4."""
    lr_batch: Annotated[int, Field(ge=0)] = 0
    """Images per step that `lr` is for; the rate is scaled to those of the run. 0 does not scale it."""
    encoder_lr_scale: AboveZero = 1.0
    """Factor on the learning rate of the encoder."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate from each block of the encoder to the one before it; 1 for one rate."""
    weight_decay: NonNegative = 0.01
    """Weight decay; none on biases, norms, positions and the class token."""
    schedule: Literal["poly", "cosine", "steps"] = "cosine"
    """Fall of the learning rate after the warm-up: linear (poly of power 1), half a cosine, or to a tenth at each of
    `drops`."""
    drops: tuple[Fraction, ...] = ()
    """Shares of the run after which the learning rate falls to a tenth, with the schedule steps."""
    final_lr: NonNegative = 0.0
    """Learning rate at the end."""
    warmup_steps: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Steps in which the learning rate rises linearly from 0, half of the run at most; auto is a twentieth of it."""
    warmup_epochs: NonNegative = 0.0
    """Epochs of warm-up, in place of `warmup_steps` if above 0."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """Decay rates of AdamW's averages of gradients and of their squares."""
    clip_grad_norm: NonNegative = 0.0
    """Maximum L2 norm of each parameter's gradient; 0 disables clipping."""


class FinetuneAugmentConfig(Section):
    """Sizes and augmentation of images."""

    size: Positive | Auto = "auto"
    """Input in pixels: the short side of images with labeled pixels or objects, else the side of the square; a multiple
    of the patch size. auto is that of the images, 512 at most (objects: 800, or 448 on a CPU), or for classes that of
    the encoder."""
    crop_from: Annotated[int, Field(ge=0)] = 0
    """Short side in pixels to which an image with a class is resized for scores and predictions, before the square of
    `size` is cut from its center; 0 stretches the image."""
    crop: Positive | Auto = "auto"
    """Side in pixels of the square crops of labeled pixels while the encoder is trained; auto is `size`."""
    scale: tuple[AboveZero, AboveZero] = (0.5, 2.0)
    """Range of the factor on `size` before a crop; for classes, with `area`, this is not used."""
    short_sides: tuple[AboveZero, AboveZero] = (0.6, 1.0)
    """Range of the short side of images with objects while the encoder is trained, as a multiple of `size`."""
    long_side: NonNegative | Auto = "auto"
    """Largest long side of an input, as a multiple of `size`, where that is the short side; 0 is unbounded. auto is 5/3
    for objects, else 0."""
    area: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Range of the share of an image that a crop for classes covers."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    color: Fraction = 0.5
    """Strength of the changes of brightness, contrast, saturation and hue for labeled pixels; 0 for none."""
    max_class_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    """Largest share of one class in the labeled pixels of a crop; others are drawn again, ten times at most."""
    randaugment: str = ""
    """RandAugment of timm for classes, such as rand-m9-mstd0.5-inc1; empty for none."""
    erase: Fraction = 0.0
    """Probability that a rectangle of an image is erased, for classes."""
    mixup: NonNegative = 0.0
    """Parameter of mixup, for classes; 0 for none."""
    cutmix: NonNegative = 0.0
    """Parameter of cutmix, for classes; 0 for none."""
    smoothing: BelowOne = 0.0
    """Label smoothing, for classes."""


class FinetuneTrainConfig(Section):
    """Settings of the loop: length, batch, devices, logs, scores and checkpoints."""

    freeze: bool | Auto = "auto"
    """True trains the head alone on features that are computed once; auto does so on a CPU."""
    views: Positive = 2
    """Versions of each training image whose features `freeze` keeps: the image, its mirror image, then crops."""
    features: str = ""
    """Folder that keeps the features of `freeze` for other runs; empty to delete them at the end of the run."""
    epochs: AboveZero | None = None
    """Passes over the training images; null if `steps` says how many."""
    steps: Positive | Auto = "auto"
    """Number of optimizer steps; overrides `epochs`. auto is by `epochs`, or by the number of images."""
    batch_size: Positive | Auto = "auto"
    """Images per device and micro-step; auto is 16, or 4 for all layers on a CPU, and at most the images there are."""
    accumulate: Positive = 1
    """Micro-steps per optimizer step."""
    class_weights: Literal["none", "inverse", "sqrt", "log"] = "none"
    """Weights of the classes in the loss by their frequency; see `data.class_weights`."""
    workers: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Data-loading workers per training process; 0 loads in the training process."""
    precision: Precision = "auto"
    """Precision of training; auto is bf16 where it is faster on this machine, else fp32."""
    devices: Positive | Auto = "auto"
    """Number of GPUs, or of processes on a CPU; auto uses all GPUs, or one process."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random numbers."""
    log_every: Positive = 10
    """Steps between rows of metrics.jsonl."""
    logger: Loggers = ("tensorboard",)
    """Loggers that get the numbers of these rows: tensorboard, wandb, mlflow, several with commas, or none."""
    eval_every: Positive | Auto = "auto"
    """Steps between scores on the validation images, which are also measured at the end; auto is a tenth of the run."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints; a checkpoint is also written at each score and when the run is interrupted."""
    checkpoint_minutes: AboveZero = 15.0
    """Minutes after which a checkpoint is written, if `checkpoint_every` steps take longer."""
    keep_checkpoints: Positive = 2
    """Number of checkpoints to keep, the newest ones."""
    max_batch_wait: AboveZero = 1800.0
    """Seconds without a batch from the workers after which the run ends with an error."""


class FinetuneConfig(Section):
    """All settings of a fine-tuning run."""

    task: TaskName = "segment"
    """Task: labels of pixels, of images, or of objects with boxes."""
    preset: str = "auto"
    """Group of settings to start from: auto, ade20k-fpn (Tables 3 and 4 of the paper), coco-mask-rcnn (Table 2) or
    inat19 (Table 1)."""
    data: LabeledDataConfig = LabeledDataConfig()
    channels: ChannelsConfig = ChannelsConfig()
    """Channels of the images. Weights of other channels than 8-bit RGB set them; with weights for RGB, a count or auto
    reads the images with all of their channels, measures them, and adapts the weights, as gtsa train --init does."""
    model: StartConfig = StartConfig()
    head: HeadConfig = HeadConfig()
    detector: DetectorConfig = DetectorConfig()
    augment: FinetuneAugmentConfig = FinetuneAugmentConfig()
    optim: FinetuneOptimConfig = FinetuneOptimConfig()
    train: FinetuneTrainConfig = FinetuneTrainConfig()
