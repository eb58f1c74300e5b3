"""Layers of settings: presets, files and overrides, merged to nested mappings and checked as a section."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel

from gtsa_kit.config.types import Section

Settings = TypeVar("Settings", bound=Section)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse `["loss.rotation_weight=0.25"]` to `{"loss.rotation_weight": 0.25}`; values are read as YAML.

    Raises:
        ValueError: A pair has no `=`, or its value is not YAML.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, for example --set loss.rotation_weight=0.25; got {pair!r}")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {pair!r}: the value is not valid YAML") from error
    return overrides


def dump_config(config: Section) -> str:
    """Return the settings as YAML; `validate` reads it back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def validate(section: type[Settings], settings: Mapping[str, Any]) -> Settings:
    """Build a section from a mapping.

    Raises:
        ValueError: A key is unknown, or a value is out of range; the message lists all problems, and similar keys.
    """
    try:
        return section.model_validate(settings)
    except pydantic.ValidationError as error:
        raise ValueError(_explain(error, section)) from error


def choose(key: str, choices: Mapping[str, Any], layers: Iterable[Mapping[str, Any]], default: str) -> str:
    """Return the value of `key` in the first layer that has it; raise `ValueError` if it is not among `choices`."""
    value = next((layer[key] for layer in layers if key in layer), default)
    if value not in list(choices):  # a list, because a file may hold an unhashable value
        raise ValueError(f"unknown {key} {value!r}: choose one of {', '.join(choices)}")
    return str(value)


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a settings file; raise `ValueError` if it is unreadable or not a mapping."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the settings file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} must be a mapping of keys to values, like config.yaml in a run folder")
    return content


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested sections."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(
                    f"setting {key!r} is inside a setting that has a value of its own; give only one of them"
                )
        section[leaf] = value
    return nested


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert nested sections to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated by `over`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        are_sections = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = merge(merged[key], value) if are_sections else value
    return merged


def without_overridden_steps(settings: Mapping[str, Any], layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop the number of steps if a later layer gives epochs alone, because steps override epochs."""
    train, later = settings.get("train"), layer.get("train")
    if not isinstance(train, Mapping) or not isinstance(later, Mapping) or "epochs" not in later or "steps" in later:
        return settings
    return {**settings, "train": {key: value for key, value in train.items() if key != "steps"}}


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of all settings and sections."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _known_keys(inner, f"{prefix}{name}.")
    return keys


_UNION_MEMBERS = {"constrained-int", "constrained-float", "literal['auto']"}
"""Suffixes that pydantic appends to the key of a setting that is a number or "auto"."""


def _explain(error: pydantic.ValidationError, section: type[BaseModel]) -> str:
    """Return one line with all problems that pydantic reports, by dotted key, and after a semicolon all hints."""
    lines: list[str] = []
    hints: list[str] = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part not in _UNION_MEMBERS)
        if problem["type"] == "extra_forbidden":
            similar = _similar_keys(key, section)
            lines.append(f"unknown setting {key!r}")
            hints += [f"did you mean {' or '.join(similar)}?"] if similar else []
        elif problem["type"] == "value_error":  # raised by a validator of this package; the message names the key
            line, *hint = str(problem["ctx"]["error"]).rsplit("; ", 1)
            lines.append(line)
            hints += hint
        elif key:
            lines.append(f"setting {key}: {problem['msg']} (got {problem['input']!r})")
        else:
            lines.append(str(problem["msg"]))
    return "; ".join(", ".join(dict.fromkeys(part)) for part in (lines, hints) if part)


def _similar_keys(key: str, section: type[BaseModel]) -> list[str]:
    """Return suggestions for an unknown key: keys with the same last part, or with a similar spelling."""
    keys = _known_keys(section)
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == leaf]
    return by_leaf or difflib.get_close_matches(key, keys, n=2, cutoff=0.6)
