"""Settings with their defaults and meanings, as data and as YAML with comments."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from gtsa_kit.config.sections import RunConfig

WIDTH = 110
"""Columns of the comments in `annotated_yaml`."""


@dataclass(frozen=True)
class Setting:
    """A setting of a run."""

    key: str
    """Dotted key, as in `--set`."""
    value: Any
    """JSON value in the described settings."""
    default: Any
    """JSON value of a run without any setting."""
    meaning: str
    """Meaning, with the unit."""
    choices: tuple[Any, ...] = ()
    """All values of a setting that takes a few words only."""


def describe_settings(config: RunConfig) -> list[Setting]:
    """Return every setting with its value, in the order of the sections."""
    return list(_settings(config, RunConfig(), ""))


def annotated_yaml(config: RunConfig) -> str:
    """Return the settings as YAML, each below a comment; `load_config` reads it back to an equal object."""
    lines = [
        "# Settings of gtsa train: --config takes this file, or a part of it. A comment names the default of a value"
    ]
    lines += ["# that differs from it; every other value is the default.", ""]
    section = ""
    for setting in describe_settings(config):
        *parents, leaf = setting.key.split(".")
        indent = "  " * len(parents)
        if parents and parents[0] != section:
            section = parents[0]
            lines += ["", *_comment(_section_of(config, section).__doc__ or "", ""), f"{section}:"]
        lines += [*_comment(_explain(setting), indent), f"{indent}{leaf}: {_inline(setting.value)}"]
    return "\n".join(lines) + "\n"


def _settings(section: BaseModel, default: BaseModel, prefix: str) -> Iterator[Setting]:
    """Yield the settings of a section; those of nested sections come last, since YAML can't return to a parent."""
    fields = type(section).model_fields
    values, defaults = section.model_dump(mode="json"), default.model_dump(mode="json")
    nested = [name for name in fields if isinstance(getattr(section, name), BaseModel)]
    for name in [name for name in fields if name not in nested]:
        choices = tuple(_literals(fields[name].annotation))
        yield Setting(f"{prefix}{name}", values[name], defaults[name], fields[name].description or "", choices)
    for name in nested:
        yield from _settings(getattr(section, name), getattr(default, name), f"{prefix}{name}.")


def _literals(annotation: Any) -> Iterator[Any]:
    """Yield the values of a `Literal`; nothing for a type that takes other values too."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)


def _section_of(config: RunConfig, name: str) -> BaseModel:
    section = getattr(config, name)
    assert isinstance(section, BaseModel)
    return section


def _explain(setting: Setting) -> str:
    choices = f" One of {', '.join(_inline(choice) for choice in setting.choices)}." if setting.choices else ""
    default = f" Default: {_inline(setting.default)}." if setting.value != setting.default else ""
    return f"{setting.meaning}{choices}{default}"


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=prefix, subsequent_indent=prefix)


def _inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
