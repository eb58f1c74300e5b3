"""Settings that a resumed run may change, and runs that are extended."""

from pathlib import Path
from typing import Any

from gtsa_kit.config import RunConfig, dump_config
from gtsa_kit.files import write_text
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.training.checkpoint import load_checkpoint

RESUME_MUTABLE_KEYS = {
    *("preset", "train.accumulate", "train.batch_size", "train.validate_images", "train.checkpoint_every"),
    *("train.devices", "train.keep_checkpoints", "train.log_every", "train.max_unreadable", "train.precision"),
    *("train.compile", "train.activation_checkpointing", "train.augment_on", "train.workers"),
    *("train.checkpoint_minutes", "train.epochs", "train.probe", "train.steps"),
    *("train.max_batch_wait", "train.logger", "data"),
}
"""Settings that may change when a run is resumed: the number of steps may grow, and batch_size x accumulate x processes
must stay the same; images must be the same wherever `data` says that they are now."""

Extensions = tuple[tuple[int, int, int], ...]
"""Finished steps, length before and length after, of every time that a run was extended."""


def extensions_of(checkpoint: dict[str, Any], schedule: TrainSchedule) -> Extensions:
    """Return the extensions of a resumed run, with that to `schedule` if it has more steps than its checkpoint.

    Raises:
        ValueError: The checkpoint's run has other images, other images per step, or more steps; or the checkpoint is
            that of another version.
    """
    if not {"schedule", "extensions", "initial_share", "architecture"} <= checkpoint.keys():
        raise ValueError("the checkpoint is that of another version of gtsa-kit; resume the run with that version")
    saved, current = dict(checkpoint["schedule"]), schedule.to_dict()
    before, after = saved.pop("steps"), current.pop("steps")
    if saved != current:
        raise ValueError(f"the run to resume has {saved}, these settings give {current}; they must be equal")
    if after < before:
        raise ValueError(
            f"the run to resume has {before} steps, these settings give {after}; "
            "give more to extend it, or end it at its last checkpoint with --finish"
        )
    extensions: Extensions = tuple((step, old, new) for step, old, new in checkpoint["extensions"])
    return extensions if after == before else (*extensions, (checkpoint["step"], before, after))


def restore_config(run_dir: Path) -> None:
    """Write config.yaml of a run anew, from the settings in its last checkpoint."""
    checkpoint = load_checkpoint(run_dir)
    assert checkpoint is not None, "the caller has seen a checkpoint"
    write_text(run_dir / "config.yaml", dump_config(RunConfig.model_validate(checkpoint["settings"])))


def diff_configs(a: RunConfig, b: RunConfig) -> list[str]:
    """Return the settings that differ and must not change on resume, as `key: value in a, value in b`."""
    flat_a, flat_b = _flatten(a.model_dump(mode="json")), _flatten(b.model_dump(mode="json"))
    ignored = RESUME_MUTABLE_KEYS | (set() if flat_b["init.sha256"] else {"init.sha256"})  # not opened yet
    keys = [key for key in flat_a if flat_a[key] != flat_b[key] and key not in ignored]
    return [f"{key}: {flat_a[key]}, {flat_b[key]}" for key in keys]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
