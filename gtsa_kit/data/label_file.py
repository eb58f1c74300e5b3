"""Files that name labels: YAML, JSON or CSV to the meaning of mask values."""

import csv
import json
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gtsa_kit.data.label_colors import Color, color_to_int, parse_color
from gtsa_kit.data.label_map import MaskOptions

_EXPECTED = (
    'expected YAML or JSON such as {0: road}, {0: {name: road, color: "#804080"}}, {road: "#804080"} or [road, car], '
    "or a CSV name,r,g,b"
)
_QUOTES = "; put names like no, on or 3 in quotes"
MAX_INDEX = 2**16 - 1
"""Largest pixel value of a mask of 16 bits."""


class _Label(NamedTuple):
    """One label of a file."""

    value: int
    """Pixel value: an index, or a color as 0xRRGGBB."""
    in_color: bool
    name: str
    color: Color | None
    """Color in pictures."""


def read_mask_options(labels: Path | None, ignore: Iterable[str]) -> MaskOptions:
    """Read mask options from a file of labels and from the values of `--ignore`.

    A file has one of these forms; YAML (`.yaml`, `.yml`) and JSON hold the same:

    - `{0: road}` or `{0: {name: road, color: "#804080"}}`: the masks hold indices; the colors are for pictures.
    - `[road, car]`, or a list of `{name: road, color: "#804080"}`: the same, with the indices 0, 1, ...
    - `{road: "#804080"}` or `{"#804080": road}`, or a CSV with the columns name, r, g, b: the masks hold colors.
    - `{road: 0}`: indices by name.

    A color is `"#RRGGBB"` or `[r, g, b]`. Several values may have one name; they are one class.

    Args:
        labels: The file; None makes each value in the masks a class.
        ignore: Void values or class names; see `MaskOptions.ignore`.

    Raises:
        ValueError: The file cannot be read, is malformed, names a value twice, or holds indices and colors.
    """
    if labels is None:
        return MaskOptions(ignore=tuple(ignore))
    readers: dict[str, Callable[[str], list[_Label]]] = {".json": _from_json, ".csv": _from_csv}
    try:
        entries = readers.get(labels.suffix.lower(), _from_yaml)(labels.read_text(encoding="utf-8-sig"))
        for first, second in _duplicates([(label.value, label.in_color) for label in entries]):
            raise ValueError(f"{entries[first].name} and {entries[second].name} have one value")
    except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{labels}: {' '.join(str(error).split())}; {_EXPECTED}") from error
    kinds = {label.in_color for label in entries}
    if len(kinds) != 1:
        raise ValueError(f"{labels} holds {'indices and colors' if kinds else 'nothing'}; give one kind")
    names = {label.value: label.name for label in entries}
    colors = {label.value: label.color for label in entries if label.color is not None}
    return MaskOptions(names, kinds.pop(), tuple(ignore), colors=colors)


def _from_yaml(text: str) -> list[_Label]:
    return _labels(yaml.load(text, _UniqueKeyLoader))  # noqa: S506 (a subclass of SafeLoader)


def _from_json(text: str) -> list[_Label]:
    return _labels(json.loads(text, object_pairs_hook=lambda pairs: _unique([key for key, _ in pairs], dict(pairs))))


def _from_csv(text: str) -> list[_Label]:
    rows = csv.DictReader(text.splitlines(), strict=True, skipinitialspace=True)
    labels = []
    for row in rows:
        try:
            color = parse_color([int(row[channel]) for channel in "rgb"])
            labels.append(_Label(color_to_int(color), True, _name(row["name"]), color))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {rows.line_num} is not name,r,g,b of 0 to 255") from error
    return labels


def _labels(content: Any) -> list[_Label]:
    """Return the labels of parsed YAML or JSON."""
    if isinstance(content, list):
        return [_label_of_value(index, False, item) for index, item in enumerate(content)]
    if not isinstance(content, dict):
        raise ValueError("it holds neither a list nor a table")
    return [_label(key, value) for key, value in content.items()]


def _label(key: Any, content: Any) -> _Label:
    """Return the label of an entry whose key is an index, a color or a name."""
    if type(key) is int or (isinstance(key, str) and key.isdecimal()):
        return _label_of_value(_index(int(key)), False, content)
    if isinstance(key, str) and key.startswith("#"):
        color = parse_color(key)
        label = _label_of_value(color_to_int(color), True, content)
        return label._replace(color=label.color or color)
    if type(content) is int:
        return _Label(_index(content), False, _name(key), None)
    if isinstance(content, dict):
        raise ValueError(f"{key!r} holds a table; write the index or the color before the name")
    color = parse_color(content)
    return _Label(color_to_int(color), True, _name(key), color)


def _label_of_value(value: int, in_color: bool, content: Any) -> _Label:
    """Return the label of a pixel value, whose content is a name or a table of a name and a color."""
    if not isinstance(content, dict):
        return _Label(value, in_color, _name(content), None)
    unknown = [key for key in content if key not in ("name", "color")]
    if unknown or "name" not in content:
        raise ValueError(f"a label has a name and a color, not {', '.join(map(repr, content)) or 'nothing'}")
    return _Label(
        value, in_color, _name(content["name"]), parse_color(content["color"]) if "color" in content else None
    )


def _index(value: int) -> int:
    if not 0 <= value <= MAX_INDEX:
        raise ValueError(f"{value} is no index of a mask (0 to {MAX_INDEX})")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no name{_QUOTES}")
    return value


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key that is there twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        return _unique(keys, super().construct_mapping(node, deep))


def _unique(keys: list[Any], content: dict[Any, Any]) -> dict[Any, Any]:
    for first, _ in _duplicates(keys):
        raise ValueError(f"{keys[first]!r} is there twice")
    return content


def _duplicates(keys: list[Any]) -> list[tuple[int, int]]:
    """Return the positions (first, second) of keys that are there twice."""
    seen: dict[str, int] = {}
    return [(seen[repr(key)], i) for i, key in enumerate(keys) if seen.setdefault(repr(key), i) != i]
