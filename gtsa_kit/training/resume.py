"""Settings that a resumed run may change."""

from typing import Any

from gtsa_kit.config import RunConfig

RESUME_MUTABLE_KEYS = {
    *("preset", "train.accumulate", "train.batch_size", "train.validate_images", "train.checkpoint_every"),
    *("train.devices", "train.keep_checkpoints", "train.log_every", "train.max_unreadable", "train.precision"),
    *("train.compile", "train.activation_checkpointing", "train.augment_on", "train.workers"),
}
"""Settings that may change when a run is resumed; batch_size x accumulate x processes must stay the same."""


def diff_configs(a: RunConfig, b: RunConfig) -> list[str]:
    """Return the settings that differ and must not change on resume, as `key: value in a, value in b`."""
    flat_a, flat_b = _flatten(a.model_dump(mode="json")), _flatten(b.model_dump(mode="json"))
    keys = [key for key in flat_a if flat_a[key] != flat_b[key] and key not in RESUME_MUTABLE_KEYS]
    return [f"{key}: {flat_a[key]}, {flat_b[key]}" for key in keys]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
