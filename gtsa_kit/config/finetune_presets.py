"""Presets of fine-tuning, and the resolution of preset, file and command line to one settings object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtsa_kit.config.finetune import FinetuneConfig, TaskName
from gtsa_kit.config.layers import choose, flatten, merge, nest, read_yaml, validate, without_overridden_steps

FINETUNE_PRESETS: dict[str, dict[str, Any]] = {
    # New heads learn at the full rate, trained encoders at a tenth of it, their first layers at the lowest.
    "auto": {"optim": {"encoder_lr_scale": 0.1, "layer_decay": 0.8, "clip_grad_norm": 3.0}},
    # Tables 3 and 4 of the GTSA paper, completed by the protocol of SelfPatch that it follows.
    "ade20k-fpn": {
        "head": {"name": "fpn", "final_norm": False, "pyramid": "flat", "channels": 128, "dropout": 0.1},
        "optim": {"lr": 6e-5, "weight_decay": 0.01, "schedule": "poly", "final_lr": 0.0, "warmup_steps": 1500},
        "augment": {"size": 512, "long_side": 4.0, "crop": 512, "scale": [0.5, 2.0], "max_class_share": 0.75},
        "train": {"freeze": False, "steps": 40_000, "batch_size": 16},
    },
    # Table 2 of the GTSA paper: Mask R-CNN for 12 epochs, with a tenth of the rate after 8 and again after 11.
    "coco-mask-rcnn": {
        "model": {"drop_path": 0.05},
        "head": {"name": "mask-rcnn", "layers": [3, 5, 7, 11], "final_norm": False, "channels": 256},
        "detector": {
            "box_channels": 1024,
            "anchor_sizes": [32, 64, 128, 256, 512],
            "pre_nms": 1000,
            "proposals": 1000,
            "train_proposals": 2000,
            "train_boxes": 512,
        },
        "optim": {
            "lr": 5e-5,
            "weight_decay": 0.05,
            "schedule": "steps",
            "drops": [8 / 12, 11 / 12],
            "warmup_steps": 1000,
        },
        "augment": {"size": 800, "short_sides": [0.6, 1.0], "long_side": 1333 / 800, "color": 0.0},
        "train": {"freeze": False, "epochs": 12.0, "batch_size": 8},
    },
    # Table 1 of the GTSA paper.
    "inat19": {
        "head": {"final_norm": False},
        "model": {"drop_path": 0.1},
        "optim": {
            "lr": 5e-4,
            "lr_batch": 256,
            "layer_decay": 0.65,
            "weight_decay": 0.05,
            "schedule": "cosine",
            "final_lr": 1e-6,
            "warmup_epochs": 5.0,
        },
        "augment": {
            "size": 224,
            "crop_from": 256,
            "randaugment": "rand-m9-mstd0.5-inc1",
            "erase": 0.25,
            "mixup": 0.8,
            "cutmix": 1.0,
            "smoothing": 0.1,
        },
        "train": {"freeze": False, "epochs": 300.0, "batch_size": 1024},
    },
}
"""Settings of each preset, by name."""
PRESET_TASKS: dict[str, TaskName] = {"ade20k-fpn": "segment", "coco-mask-rcnn": "detect", "inat19": "classify"}
"""Task of the presets that are for one task."""


def load_finetune_config(
    task: TaskName,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> FinetuneConfig:
    """Resolve the settings of a fine-tuning run from preset, file and overrides; later ones take precedence.

    Args:
        task: Task of the run.
        preset: Key of `FINETUNE_PRESETS`; None for that of the file, or auto.
        file: YAML file with any part of the keys of a run folder's `config.yaml`.
        overrides: Values by dotted key, e.g. `{"train.batch_size": 8}`.

    Raises:
        ValueError: A preset or key is unknown, a value is out of range, or the preset or file is for another task.
    """
    from_file = read_yaml(file) if file else {}
    layers = ({"preset": preset} if preset else {}, overrides or {}, from_file)
    preset = choose("preset", FINETUNE_PRESETS, layers, "auto")
    for origin, other in (("the preset " + preset, PRESET_TASKS.get(preset)), (str(file), from_file.get("task"))):
        if other not in (None, task):
            raise ValueError(f"{origin} is for the task {other}, got {task}; use gtsa finetune {other}, or omit it")
    settings: Mapping[str, Any] = {}
    for layer in (FINETUNE_PRESETS[preset], from_file, nest(overrides or {})):
        settings = merge(without_overridden_steps(settings, layer), layer)
    return validate(FinetuneConfig, merge(settings, {"task": task, "preset": preset}))


RESUME_MUTABLE = {
    *("data.source", "data.images", "data.val", "train.log_every", "train.keep_checkpoints", "train.logger"),
    *("train.checkpoint_every", "train.checkpoint_minutes"),
    *("train.batch_size", "train.accumulate", "train.devices", "train.workers", "train.max_batch_wait"),
    *("train.precision", "train.features", "train.steps", "train.epochs"),
}
"""Settings that may change when a run is resumed: the number of steps may grow, batch_size x accumulate x processes
must stay the same, and the images must be the same wherever `data.source` says that they are now."""


def resume_finetune_config(
    saved: Path, task: TaskName, preset: str | None, file: Path | None, overrides: Mapping[str, Any]
) -> FinetuneConfig:
    """Return the settings of a saved run with those that may change.

    Args:
        saved: The run's config.yaml.
        task: Task of the command.
        preset: Preset that is given; it must be that of the run.
        file: YAML file of settings that is given.
        overrides: Values by dotted key.

    Raises:
        ValueError: The run has another task, or a setting differs that must not change.
    """
    before = load_finetune_config(task, None, saved)
    given = flatten(read_yaml(file) if file else {}) | dict(overrides) | ({"preset": preset} if preset else {})
    given = {key: value for key, value in given.items() if value != "auto" and key != "task"}
    layer, saved_settings = nest(given), before.model_dump(mode="json")
    after = validate(FinetuneConfig, merge(without_overridden_steps(saved_settings, layer), layer))
    old, new = flatten(before.model_dump(mode="json")), flatten(after.model_dump(mode="json"))
    changed = [f"{key}: {old[key]}, {new[key]}" for key in old if old[key] != new[key] and key not in RESUME_MUTABLE]
    if changed:
        raise ValueError(
            f"the run in {saved.parent} has other settings (saved, now: {'; '.join(changed)}); "
            "remove these options to resume it, or choose another --out for a new run"
        )
    return after
