"""From a preset, a file and the command line to one settings object, and the words for what is wrong with it."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from gtsa_kit.config.presets import METHODS, PRESETS
from gtsa_kit.config.sections import RunConfig


def load_config(
    preset: str = "coco", file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Resolve the settings: the method's, then preset, then file, then overrides by dotted key; the later wins.

    Args:
        preset: One of `PRESETS`. A file that names another preset wins over this, and an override `preset` over both.
            The method is gtsa unless the file, or an override `method`, says another.
        file: YAML of the shape of `config.yaml` in a run folder; it may hold any part of it.
        overrides: Dotted keys to values, e.g. `{"train.batch_size": 8}`.

    Raises:
        ValueError: An unknown preset, method or key, or a value out of range; the message names what is allowed.
    """
    from_file = _read_yaml(file) if file else {}
    overrides = overrides or {}
    preset = _choose("preset", PRESETS, (overrides, from_file), preset)
    method = _choose("method", METHODS, (overrides, from_file), "gtsa")
    settings: dict[str, Any] = {"preset": preset, "method": method}
    for layer in (METHODS[method], PRESETS[preset], from_file, _nest(overrides)):
        settings = _merge(settings, layer)
    try:
        return RunConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise ValueError(_explain(error)) from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["loss.rotation_weight=0.25"]` to `{"loss.rotation_weight": 0.25}`; values are read as YAML.

    Raises:
        ValueError: A pair without `=`, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, for example --set loss.rotation_weight=0.25; got {pair!r}")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {pair!r}: the value is not readable as YAML") from error
    return overrides


def dump_config(config: RunConfig) -> str:
    """The settings as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _choose(what: str, known: Mapping[str, Any], layers: Iterable[Mapping[str, Any]], default: str) -> str:
    """The first layer's word for it."""
    chosen = next((layer[what] for layer in layers if what in layer), default)
    if chosen not in list(known):  # a list: a file may name something that has no hash
        raise ValueError(f"unknown {what} {chosen!r}: choose one of {', '.join(known)}")
    return str(chosen)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the settings file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not readable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold keys and values, as config.yaml in a run folder does")
    return content


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        room = nested
        for parent in parents:
            room = room.setdefault(parent, {})
            if not isinstance(room, dict):
                raise ValueError(f"setting {key!r} lies inside another setting that has a value already")
        room[leaf] = value
    return nested


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _known_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _known_keys(inner, f"{prefix}{name}.")
    return keys


_ALTERNATIVES = {"constrained-int", "literal['auto']"}
"""What pydantic puts behind the key of a setting that is a number or "auto"."""


def _explain(error: pydantic.ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part not in _ALTERNATIVES)
        if problem["type"] == "extra_forbidden":
            near = _nearest(key)
            lines.append(f"unknown setting {key!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        elif problem["type"] == "value_error":  # raised here, and names its key
            lines.append(str(problem["ctx"]["error"]))
        elif key:
            lines.append(f"setting {key}: {problem['msg']} (got {problem['input']!r})")
        else:
            lines.append(str(problem["msg"]))
    return "; ".join(dict.fromkeys(lines))


def _nearest(key: str) -> list[str]:
    known = _known_keys()
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    return by_leaf or difflib.get_close_matches(key, known, n=2, cutoff=0.6)
