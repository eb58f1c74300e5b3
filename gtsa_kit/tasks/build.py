"""Model, optimizer, rates and batches of a fine-tuning run, new or from a checkpoint."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.data.batches import TimedBatches, make_batches, resolve_workers
from gtsa_kit.data.class_weights import class_weights
from gtsa_kit.data.detect_augment import DetectAugment
from gtsa_kit.data.detect_batches import ObjectExamples, ObjectSamples
from gtsa_kit.data.mixing import BatchMixer
from gtsa_kit.data.samples import DistributedBatchSampler
from gtsa_kit.data.task_augment import ClassifyAugment, SegmentAugment
from gtsa_kit.data.task_batches import ClassExamples, MaskExamples, TrainingSamples, collate_labeled
from gtsa_kit.data.task_color import ChannelSamples, ColorJitter
from gtsa_kit.hardware import should_use_fused_attention
from gtsa_kit.models.channel_images import channel_range
from gtsa_kit.models.detector import DetectorHead
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.tasks.frozen import FrozenBatches
from gtsa_kit.tasks.frozen_start import frozen_features
from gtsa_kit.tasks.object_data import ObjectData
from gtsa_kit.tasks.query_loss import make_query_criterion
from gtsa_kit.tasks.start import TaskStart, build_model, exclude_unused, long_side
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import ClassData, MaskData, TaskData, data_digest, training_images
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.optim import cosine, layer_groups, parameter_groups


def build_state(
    config: FinetuneConfig,
    run_dir: Path,
    data: TaskData,
    fabric: Fabric,
    start: TaskStart,
    spec: TaskSpec,
    checkpoint: dict[str, Any] | None,
    callback: FinetuneCallback,
    notices: list[str],
    encoded_images: int | None = None,
) -> FinetuneState:
    """Build the state of a run, and compute the features of a frozen encoder: of all images, or of some for a dry run.

    Raises:
        ValueError: The disk has no space for features.
        StoppedError: The callback stopped the run meanwhile.
    """
    train = config.train
    model = place_model(config, start, spec, checkpoint, fabric)
    trained: nn.Module = model.head if train.freeze else model
    features = None
    if train.freeze:
        features = frozen_features(config, run_dir, data, fabric, model, callback, notices, encoded_images)
    optimizer = make_optimizer(model, config)
    wrapped, wrapped_optimizer = fabric.setup(trained, optimizer)
    if isinstance(model.head, DetectorHead):
        wrapped.mark_forward_method("losses")
    if checkpoint:
        optimizer.load_state_dict(checkpoint["optimizer"])
    step = checkpoint["step"] if checkpoint else 0
    batches: Any
    if features:
        position = fabric.global_rank, fabric.world_size, step * train.accumulate
        batches = FrozenBatches(features[0], resolved(train.batch_size), train.seed, *position)
    else:
        batches = open_batches(config, data, model.encoder, fabric, step)
    weights = class_weights(data.report.train.counts, train.class_weights)
    lr = learning_rates(config, images_per_step(config, fabric), int((~data.validation).sum()))
    origin = config, run_dir, data, data_digest(data), fabric
    modules = model, trained, wrapped, wrapped_optimizer
    return FinetuneState(
        *(*origin, *modules, lr, batches),
        mixer=make_mixer(config, spec) if features is None and spec.task == "classify" else None,
        class_weights=None if train.class_weights == "none" else torch.from_numpy(weights).to(fabric.device),
        val_features=features[1] if features else None,
        start_digest=config.model.sha256,
        query_criterion=make_query_criterion(spec.classes).to(fabric.device) if spec.head == "eomt" else None,
        step=step,
        best=checkpoint["best"] if checkpoint else None,
    )


def place_model(
    config: FinetuneConfig, start: TaskStart, spec: TaskSpec, checkpoint: dict[str, Any] | None, fabric: Fabric
) -> TaskModel:
    """Build the model with the weights of the start, or of the checkpoint, for the device and precision of a run."""
    model = build_model(config, start, spec)
    exclude_unused(model)
    if fabric.world_size > 1 and fabric.device.type == "cuda":  # torch implements it for CUDA only
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if not should_use_fused_attention(fabric.device, config.train.precision == "bf16"):
        model.encoder.use_unfused_attention()
    if checkpoint:
        (model.head if config.train.freeze else model).load_state_dict(checkpoint["trained"])
    fabric.to_device(model)
    return model


def make_optimizer(model: TaskModel, config: FinetuneConfig) -> torch.optim.AdamW:
    """Build AdamW for the head, or for all layers with the rates of `layer_groups`."""
    optim = config.optim
    if config.train.freeze:
        groups = parameter_groups(model.head)
    else:
        groups = layer_groups(model, model.encoder.vit, optim.layer_decay, optim.encoder_lr_scale)
    return torch.optim.AdamW(groups, lr=0.0, betas=optim.betas, weight_decay=0.0, fused=True)


def learning_rates(config: FinetuneConfig, batch: int, images: int) -> np.ndarray:
    """Return the learning rate of each step, (steps,): a linear rise from 0, then a line, half a cosine or drops.

    Args:
        config: Settings without auto.
        batch: Images per step over all processes.
        images: Number of training images.
    """
    optim, steps = config.optim, resolved(config.train.steps)
    peak = resolved(optim.lr) * (batch / optim.lr_batch if optim.lr_batch else 1)
    warmup = min(round(optim.warmup_epochs * images / batch) or resolved(optim.warmup_steps), steps // 2)
    rise, rest = peak * np.arange(warmup) / max(warmup, 1), steps - warmup
    if optim.schedule == "cosine":
        return np.concatenate([rise, cosine(peak, optim.final_lr, rest)])
    if optim.schedule == "steps":
        passed = np.arange(warmup, steps)[:, None] >= np.round(np.array(optim.drops) * steps)
        return np.concatenate([rise, peak * 0.1 ** passed.sum(axis=1)])
    return np.concatenate([rise, np.linspace(peak, optim.final_lr, rest, endpoint=False)])


def images_per_step(config: FinetuneConfig, fabric: Fabric) -> int:
    """Return the images of a step over all processes."""
    return resolved(config.train.batch_size) * config.train.accumulate * fabric.world_size


def make_mixer(config: FinetuneConfig, spec: TaskSpec) -> BatchMixer:
    """Return the mixing of images with a class."""
    augment = config.augment
    return BatchMixer(spec.classes, augment.mixup, augment.cutmix, augment.smoothing, config.train.seed)


def open_batches(
    config: FinetuneConfig, data: TaskData, encoder: Encoder, fabric: Fabric, step: int
) -> TimedBatches[Any]:
    """Open this process's micro-batches of augmented images, from `step` to the end."""
    train, images = config.train, training_images(data)
    dataset: Any
    collate: Any = collate_labeled
    if isinstance(data, ObjectData):
        detect_augment = make_detect_augment(config, encoder)
        dataset = ObjectSamples(ObjectExamples(data.prepared.data, images), detect_augment, train.seed)
        collate = detect_augment.collate
    else:
        assert isinstance(data, MaskData | ClassData)
        kind: Any = MaskExamples if isinstance(data, MaskData) else ClassExamples
        augment = make_augment(config, encoder.preprocessing)
        dataset = TrainingSamples(kind(data.prepared.data, images), augment, train.seed)
    position = fabric.global_rank, fabric.world_size, step, resolved(train.steps)
    sampler = DistributedBatchSampler(resolved(train.batch_size), train.accumulate, *position)
    workers = resolve_workers(train.workers, fabric.device.type, fabric.world_size)
    loaded = make_batches(dataset, sampler, workers, fabric.device.type == "cuda", collate)
    return TimedBatches(loaded, train.max_batch_wait)


def make_detect_augment(config: FinetuneConfig, encoder: Encoder) -> DetectAugment:
    """Return the augmentation of images with objects: whole images of random size, mirrored, with changed colors."""
    augment, preprocessing = config.augment, encoder.preprocessing
    channels = channel_samples(preprocessing)
    size, interpolation = resolved(augment.size), preprocessing.interpolation.split(",")[0]
    low, high = (round(size * factor) for factor in augment.short_sides)
    return DetectAugment(
        patch=encoder.architecture.patch,
        short_sides=(low, high),
        long_side=long_side(config) or sys.maxsize,
        hflip=augment.flip,
        color=ColorJitter.of_strength(augment.color) if augment.color else None,
        mean=preprocessing.mean,
        interpolation=interpolation,  # type: ignore[arg-type]
        channels=channels,
    )


def make_augment(config: FinetuneConfig, preprocessing: Preprocessing) -> SegmentAugment | ClassifyAugment:
    """Return the augmentation of a run."""
    augment = config.augment
    interpolation: Any = preprocessing.interpolation.split(",")[0]
    mean, std, channels = preprocessing.mean, preprocessing.std, channel_samples(preprocessing)
    if config.task == "classify":
        return ClassifyAugment(
            size=(resolved(augment.size), resolved(augment.size)),
            scale=augment.area,
            hflip=augment.flip,
            rand_augment=augment.randaugment,
            erase=augment.erase,
            mean=mean,
            std=std,
            interpolation=interpolation,
            channels=channels,
        )
    return SegmentAugment(
        size=(resolved(augment.crop), resolved(augment.crop)),
        scale=augment.scale,
        short_side=resolved(augment.size),
        long_side=long_side(config) or None,
        max_class_share=augment.max_class_share,
        hflip=augment.flip,
        color=ColorJitter.of_strength(augment.color) if augment.color else None,
        mean=mean,
        interpolation=interpolation,
        channels=channels,
    )


def channel_samples(preprocessing: Preprocessing) -> ChannelSamples | None:
    """Return the samples of a model of other channels than 8-bit RGB, else None."""
    limits = channel_range(preprocessing)
    return None if limits is None else ChannelSamples(limits, preprocessing.scale)
