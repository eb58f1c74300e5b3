"""Writer of protobuf's text format, which needs no schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Message = dict[str, Any]
"""Fields by name: a message is a mapping, a repeated field a list, an enum value an `EnumValue`."""


class EnumValue(str):
    """Value of an enum, which is written without quotes."""


def to_pbtxt(fields: Mapping[str, Any], indent: str = "") -> str:
    """Render a message in protobuf's text format."""
    return "".join(f"{indent}{line}\n" for name, value in fields.items() for line in _lines(name, value))


def _lines(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield f"{name} {{"
        yield from to_pbtxt(value, "  ").splitlines()
        yield "}"
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for item in value:
            yield from _lines(name, item)
    elif isinstance(value, list):
        yield f"{name}: [{', '.join(map(_scalar, value))}]"
    else:
        yield f"{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) and not isinstance(value, EnumValue) else str(value)
