"""Values that replace "auto" in the settings of a fine-tuning run, by the data and the machine."""

import math
from collections.abc import Mapping
from typing import Any

from gtsa_kit.config.finetune import FinetuneConfig
from gtsa_kit.models.detector_spec import STRIDES
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.sizes import check_sides, nearest_side
from gtsa_kit.models.task_spec import HEADS, head_layers
from gtsa_kit.tasks.object_data import ObjectData
from gtsa_kit.tasks.task_data import MaskData, TaskData
from gtsa_kit.training.fabric import choose_precision

MAX_SIDE = 512
"""Largest size of inputs that auto chooses, in pixels."""
EPOCHS = {"frozen": 30, "cpu": 20, "cuda": 50}
"""Passes over the images that auto trains a head alone, or all layers on a device, between the numbers of `STEPS`."""
STEPS = {"frozen": (200, 3000), "cpu": (200, 3000), "cuda": (1000, 20_000)}
"""Smallest and largest number of steps that auto chooses."""
BATCH = {"frozen": 16, "cpu": 4, "cuda": 16}
"""Images per micro-step that auto chooses, at most."""
DETECTOR_BATCH = {"frozen": 4, "cpu": 2, "cuda": 8}
"""The same for detectors, the heads of which take most of the time."""
DETECTOR_SIDE = {"frozen": 448, "cpu": 448, "cuda": 800}
"""Short side of the inputs of detectors that auto chooses, at most, in pixels."""
RATE = 1e-3
"""Peak learning rate of other heads, and of all layers."""
LINEAR_RATE = 3e-2
"""Peak learning rate of a linear layer on the maps of a frozen encoder."""
DETECTOR_RATE = 4e-4
"""Peak learning rate of detectors."""
EOMT_RATE = 2e-4
"""Peak learning rate of the head eomt, a part of which is trained already."""
ENLARGED = 5 / 3
"""Factor by which detectors on a GPU enlarge images, at most; COCO's become 800 pixels high."""
DETECTOR_SIZES: dict[str, dict[str, int]] = {
    "cuda": {"box_channels": 1024, "pre_nms": 1000, "proposals": 1000, "train_proposals": 2000, "train_boxes": 512},
    "cpu": {"box_channels": 512, "pre_nms": 300, "proposals": 300, "train_proposals": 500, "train_boxes": 128},
}
"""Sizes of detectors by device: those of torchvision, and less for a CPU."""


def resolve_auto(
    config: FinetuneConfig, data: TaskData, spec: EncoderSpec, device: str, world: int
) -> tuple[FinetuneConfig, str]:
    """Replace "auto" in the settings of a new run.

    Args:
        config: Settings.
        data: Labeled images.
        spec: Architecture and preprocessing of the encoder.
        device: Type of the device, cpu or cuda.
        world: Number of processes.

    Returns:
        Settings, and a sentence that says what was chosen.

    Raises:
        ValueError: A size is no multiple of the patch size, or a setting does not fit the task.
    """
    images = int((~data.validation).sum())
    chosen: dict[str, Any] = {}

    def choose(key: str, value: Any) -> Any:
        section, name = key.split(".")
        given = getattr(getattr(config, section), name)
        if given != "auto":
            return given
        chosen[key] = value
        return value

    freeze = choose("train.freeze", device == "cpu" and config.model.random is None)
    kind = "frozen" if freeze else device
    name = _choose_head(config, data, spec, choose)
    size = _choose_sizes(data, spec, kind, choose)
    _choose_detector(config, name, size, device, choose)
    batch = choose("train.batch_size", min(images, (DETECTOR_BATCH if config.task == "detect" else BATCH)[kind]))
    images_per_step = batch * config.train.accumulate * world
    steps = choose("train.steps", _steps(config.train.epochs, images, images_per_step, kind))
    choose("optim.lr", _rate(config.task, name, freeze))
    choose("optim.warmup_steps", steps // 20)
    choose("train.eval_every", max(1, steps // (10 if freeze else 5)))
    precision = choose_precision(config.train.precision)
    if precision != config.train.precision:
        chosen["train.precision"] = precision
    return _with(config, chosen), _sentence(chosen, freeze, steps * images_per_step / images, config.task == "detect")


def _choose_head(config: FinetuneConfig, data: TaskData, spec: EncoderSpec, choose: Any) -> str:
    """Choose the head, its blocks and their maps; return its name."""
    heads = HEADS[config.task]
    boxes_alone = isinstance(data, ObjectData) and not data.has_masks
    name = choose("head.name", "faster-rcnn" if boxes_alone else heads[0])
    if name not in heads:
        raise ValueError(f"the task {config.task} has no head {name}; choose {' or '.join(heads)}")
    if name != "faster-rcnn" and boxes_alone:
        raise ValueError(f"the objects have no masks, which the head {name} learns; use --no-masks for boxes alone")
    layers = choose("head.layers", head_layers(spec.architecture, config.task, name))
    if name == "eomt":
        _check_eomt(config, layers)
    choose("head.blocks", spec.architecture.depth - 1 - layers[0] if name == "eomt" else 0)
    return str(name)


def _check_eomt(config: FinetuneConfig, layers: tuple[int, ...]) -> None:
    if len(layers) != 1:
        given = ",".join(map(str, layers)) or "(none)"
        raise ValueError(f"the head eomt takes the map of one block, got --layers {given}")
    if config.train.class_weights != "none":
        raise ValueError("the loss of the head eomt has no weights of classes; omit --class-weights")


def _rate(task: str, head: str, freeze: bool) -> float:
    """Return the peak learning rate of a head, or of all layers."""
    if head == "eomt":
        return EOMT_RATE
    if task == "detect":
        return DETECTOR_RATE
    return LINEAR_RATE if head == "linear" and task == "segment" and freeze else RATE


def _choose_detector(config: FinetuneConfig, head: str, size: int, device: str, choose: Any) -> None:
    """Choose channels and the sizes of a detector; anchors are as large for its inputs as torchvision's for 800."""
    detect = config.task == "detect" and head != "eomt"
    choose("head.channels", 256 if detect and device == "cuda" else 128)
    if detect:
        first = 2 ** max(2, round(math.log2(size * 32 / 800)))
        choose("detector.anchor_sizes", tuple(first * 2**level for level in range(len(STRIDES))))
        for name, value in DETECTOR_SIZES[device].items():
            choose(f"detector.{name}", value)


def _choose_sizes(data: TaskData, spec: EncoderSpec, kind: str, choose: Any) -> int:
    """Choose the sizes of inputs and crops; return that of inputs."""
    patch = spec.architecture.patch
    side: float = spec.preprocessing.size
    if isinstance(data, MaskData):
        side = min(MAX_SIDE, data.short_side())
    if isinstance(data, ObjectData):
        side = min(DETECTOR_SIDE[kind], data.short_side() * (ENLARGED if kind == "cuda" else 1))
    size = choose("augment.size", nearest_side(side, patch))
    crop = choose("augment.crop", size)
    for name, value in (("size", size), ("crop", crop)):
        try:
            check_sides(value, value, patch)
        except ValueError as error:
            raise ValueError(f"augment.{name}: {str(error).removeprefix('height ')}") from error
    return int(size)


def count_steps(epochs: float, images: int, images_per_step: int) -> int:
    """Return the number of steps of a number of epochs."""
    return max(1, round(epochs * images / images_per_step))


def _steps(epochs: float | None, images: int, images_per_step: int, kind: str) -> int:
    if epochs is not None:
        return count_steps(epochs, images, images_per_step)
    low, high = STEPS[kind]
    return min(high, max(low, round(EPOCHS[kind] * images / images_per_step)))


def _with(config: FinetuneConfig, changes: Mapping[str, Any]) -> FinetuneConfig:
    """Return settings with other values by dotted key."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def _sentence(chosen: Mapping[str, Any], freeze: bool, epochs: float, detect: bool) -> str:
    """Return what was chosen, in words."""
    words = {
        "train.freeze": "the head alone" if freeze else "all layers",
        "head.name": f"head {chosen.get('head.name')}",
        "augment.size": f"size {chosen.get('augment.size')}",
        "augment.crop": "" if freeze or detect else f"crop {chosen.get('augment.crop')}",
        "head.channels": f"{chosen.get('head.channels')} channels" if "detector.anchor_sizes" in chosen else "",
        "detector.proposals": f"{chosen.get('detector.proposals')} proposals",
        "detector.train_boxes": f"{chosen.get('detector.train_boxes')} of them in the losses",
        "train.batch_size": f"batch {chosen.get('train.batch_size')}",
        "train.steps": f"{chosen.get('train.steps')} steps ({epochs:.3g} epochs)",
        "optim.lr": f"rate {chosen.get('optim.lr')}",
        "train.precision": f"{chosen.get('train.precision')}",
    }
    texts = [text for key, text in words.items() if key in chosen and text]
    return f"auto: {', '.join(texts)}" if texts else ""
