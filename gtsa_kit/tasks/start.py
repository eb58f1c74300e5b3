"""Encoder and head that a fine-tuning run starts from, and its task model."""

from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch

from gtsa_kit.config.finetune import FinetuneConfig, StartConfig, resolved
from gtsa_kit.data.label_map import VOID
from gtsa_kit.models.checkpoint_import.run_files import check_stated_facts
from gtsa_kit.models.detector_spec import DetectorSpec
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.run_folder import is_task_run
from gtsa_kit.models.task_model import TaskModel, load_task_model
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.tasks.task_data import MaskData, TaskData
from gtsa_kit.training.start import FILE, Start, make_start, open_stated


@dataclass(frozen=True)
class TaskStart(Start):
    """Encoder that a fine-tuning run starts from, and the weights of its head."""

    head: dict[str, torch.Tensor] | None = None
    """Weights of the head; None for random ones."""


def open_encoder(config: StartConfig) -> Start:
    """Open the encoder of a new run: trained weights, the encoder of another fine-tuned model, or a random one.

    Raises:
        ValueError: Neither or both are named, the weights can't be opened, or they are others than recorded.
    """
    if bool(config.weights) == (config.random is not None):
        raise ValueError("a run starts from weights or from a random encoder; give --model WEIGHTS or --random ARCH")
    if config.random:
        return Start(EncoderSpec.named(config.random))
    path = Path(config.weights)
    facts = config.model_dump(exclude={"weights", "sha256", "to_patch", "random", "drop_path"})
    if is_task_run(path):
        check_stated_facts(path, [name for name, value in facts.items() if value is not None])
        opened: tuple[Encoder, tuple[str, ...]] = load_task_model(path).encoder, ()
    else:
        opened = open_stated(path, facts)
    return make_start(path, *opened, config.to_patch, config.sha256, ("--model", "model.sha256"))


def open_head(config: StartConfig, spec: TaskSpec) -> tuple[dict[str, torch.Tensor] | None, tuple[str, ...]]:
    """Open the head of the fine-tuned model that a run starts from, if it is one for the same classes and maps.

    All layers are trained best from a head that fits the encoder already (LP-FT, arXiv 2202.10054).

    Returns:
        Weights of the head, None where it has to be a new one, and a sentence about them.
    """
    if not config.weights or not is_task_run(Path(config.weights)):
        return None, ()
    model = load_task_model(Path(config.weights))
    if different := _differences(model.spec, spec):
        return None, (f"the head is new: that of {config.weights} has other {', '.join(different)}",)
    return model.head.state_dict(), (f"the head starts with the weights of that in {config.weights}",)


def _differences(old: TaskSpec, new: TaskSpec) -> list[str]:
    """Return the names of what keeps one head from having the weights of another."""
    shapes = ("task", "head", "layers", "final_norm", "pyramid", "channels", "blocks", "detector")
    names = [name for name in shapes if getattr(old, name) != getattr(new, name)]
    same_classes = [label.name for label in old.labels] == [label.name for label in new.labels]
    return names if same_classes else [*names, "classes"]


def make_spec(config: FinetuneConfig, data: TaskData) -> TaskSpec:
    """Return the spec of the task model of settings without auto.

    Raises:
        ValueError: There are more classes than masks can hold, or head and layers do not fit.
    """
    labels, head, augment = data.labels, config.head, config.augment
    if data.task == "segment" and len(labels) > VOID:
        raise ValueError(f"{len(labels)} classes are more than a mask holds, {VOID}; merge some in --labels FILE")
    size, crop_from = resolved(augment.size), augment.crop_from if config.task == "classify" else 0
    if 0 < crop_from < size:
        raise ValueError(f"augment.crop_from is {crop_from}, below the size {size}; give a larger one, or 0")
    return TaskSpec(
        task=config.task,
        labels=labels,
        head=head.name,
        layers=resolved(head.layers),
        final_norm=head.final_norm and head.name != "eomt",
        pyramid=head.pyramid,
        channels=resolved(head.channels),
        dropout=head.dropout,
        short_side=None if config.task == "classify" else size,
        long_side=0 if config.task == "classify" else long_side(config),
        crop_from=crop_from,
        label_masks=data.label_masks if isinstance(data, MaskData) else "index",
        detector=make_detector_spec(config) if config.task == "detect" else None,
        blocks=resolved(head.blocks),
    )


def long_side(config: FinetuneConfig) -> int:
    """Return the largest long side of inputs in pixels; 0 is unbounded."""
    factor = config.augment.long_side
    if factor == "auto":
        factor = 5 / 3 if config.task == "detect" else 0.0
    return round(factor * resolved(config.augment.size))


def make_detector_spec(config: FinetuneConfig) -> DetectorSpec:
    """Return the spec of a detector's head from settings without auto."""
    detector = config.detector
    if config.head.name == "eomt":
        return DetectorSpec(score_threshold=detector.score_threshold, max_detections=detector.max_detections)
    return DetectorSpec(
        masks=config.head.name == "mask-rcnn",
        channels=resolved(config.head.channels),
        box_channels=resolved(detector.box_channels),
        anchor_sizes=resolved(detector.anchor_sizes),
        pre_nms=resolved(detector.pre_nms),
        proposals=resolved(detector.proposals),
        nms=detector.nms,
        score_threshold=detector.score_threshold,
        max_detections=detector.max_detections,
        train_proposals=resolved(detector.train_proposals),
        train_boxes=resolved(detector.train_boxes),
    )


def sized(spec: EncoderSpec, size: int) -> EncoderSpec:
    """Return an encoder's spec with another size of inputs, which exported files take by default."""
    return EncoderSpec(spec.architecture, replace(spec.preprocessing, size=size))


def build_model(config: FinetuneConfig, start: TaskStart, spec: TaskSpec) -> TaskModel:
    """Build the task model with the weights of a start; those it does not have are drawn by the run's seed."""
    torch.manual_seed(config.train.seed)
    encoder = start.spec.build(0.0 if config.train.freeze else config.model.drop_path)
    if start.weights is not None:
        encoder.vit.load_state_dict(start.weights, strict=True)
    torch.manual_seed(config.train.seed)  # the same head, whatever the encoder drew
    model = TaskModel(encoder, spec)
    if start.head is not None:
        model.head.load_state_dict(start.head, strict=True)
    return model


def exclude_unused(model: TaskModel) -> None:
    """Exclude weights of the encoder from training on which the maps for the head do not depend.

    Processes that exchange gradients would wait for theirs.
    """
    spec, vit = model.spec, model.encoder.vit
    if spec.task != "classify":
        vit.blocks[max(spec.layers, default=len(vit.blocks) - 1) + 1 :].requires_grad_(False)
        vit.norm.requires_grad_(spec.final_norm)


def saved_start(run_dir: Path, spec: EncoderSpec) -> TaskStart:
    """Return the start of a run from its folder; without a file of weights, they were random or are in a checkpoint."""
    file = run_dir / FILE
    return TaskStart(spec, _kept(safetensors.torch.load_file(file), spec) if file.exists() else None)


def _kept(weights: dict[str, torch.Tensor], spec: EncoderSpec) -> dict[str, torch.Tensor]:
    """Leave out the blocks that a head has taken over; the checkpoint has them."""
    parts = {name: name.split(".") for name in weights}
    taken = {
        name for name, (first, *rest) in parts.items() if first == "blocks" and int(rest[0]) >= spec.architecture.depth
    }
    return {name: value for name, value in weights.items() if name not in taken}
