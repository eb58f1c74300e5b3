"""Resolution of method, preset, settings file and command line to one settings object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtsa_kit.config.layers import choose, flatten, merge, nest, read_yaml, validate, without_overridden_steps
from gtsa_kit.config.presets import METHODS, PRESETS
from gtsa_kit.config.sections import RunConfig


def load_config(
    preset: str = "coco", file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Resolve the settings of a run from method, preset, file and overrides; later ones take precedence.

    Args:
        preset: Key of `PRESETS`. The key `preset` of the file, and that of the overrides, take precedence. The method
            is the key `method` of overrides or file, by default gtsa.
        file: YAML file with any part of the keys of a run folder's `config.yaml`.
        overrides: Values by dotted key, e.g. `{"train.batch_size": 8}`.

    Raises:
        ValueError: A preset, method or key is unknown, or a value is out of range; the message lists valid ones.
    """
    from_file = read_yaml(file) if file else {}
    overrides = overrides or {}
    preset = choose("preset", PRESETS, (overrides, from_file), preset)
    method = choose("method", METHODS, (overrides, from_file), "gtsa")
    settings: Mapping[str, Any] = {"preset": preset, "method": method}
    for layer in (METHODS[method], PRESETS[preset], from_file, nest(overrides)):
        settings = merge(without_overridden_steps(settings, layer), layer)
    settings = _with_architecture_of_weights(settings)
    return validate(RunConfig, settings)


def given_settings(file: Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a file and overrides give, by dotted key; not those of presets.

    Raises:
        ValueError: The file is unreadable or not a mapping.
    """
    return flatten(read_yaml(file) if file else {}) | dict(overrides)


def _with_architecture_of_weights(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Set `model.arch` to init in settings with weights to start from and without an architecture."""
    init, model = settings.get("init"), settings.get("model", {})
    if not isinstance(init, Mapping) or not init.get("weights") or not isinstance(model, Mapping) or "arch" in model:
        return settings
    return merge(settings, {"model": {"arch": "init"}})
