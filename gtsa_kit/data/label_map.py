"""Label maps: the values of mask pixels (indices or colors) to class numbers."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_io import open_mask

VOID = 255
"""Class number of void pixels, which belong to no class and are ignored; so there are at most 255 classes."""


@dataclass(frozen=True)
class MaskOptions:
    """Meaning of the pixel values of masks."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Class name of each pixel value; other values are void. If empty, each value in the masks is a class."""
    in_color: bool = False
    """True if the values in `names` are colors (0xRRGGBB); otherwise they are indices."""
    ignore: tuple[str, ...] = ()
    """Void values or class names, such as `11`, `#000000` or `sky`. Index 255 is void too, unless `names` has it."""
    suffix: str = ""
    """End of the masks' names before the suffix of the format, such as `_mask`, that the images' names lack."""


@dataclass(frozen=True)
class LabelMap:
    """Mapping of the pixel values of masks to class numbers."""

    classes: tuple[str, ...]
    """Class names by class number."""
    values: np.ndarray
    """Pixel values that belong to a class, ascending: indices, or colors as 0xRRGGBB."""
    class_numbers: np.ndarray
    """Class number of each of `values`, uint8."""
    in_color: bool
    """True if `values` are colors."""

    def read(self, mask: Path) -> np.ndarray:
        """Return the (H, W) uint8 class numbers of a mask file; raise `ImageError` if it cannot be read."""
        return self.apply(read_mask_values(mask, self.in_color)[0])

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the uint8 class numbers of pixel values of any shape, `VOID` for those of no class."""
        index = np.minimum(np.searchsorted(self.values, values), len(self.values) - 1)
        return np.where(self.values[index] == values, self.class_numbers[index], np.uint8(VOID))


def read_mask_values(mask: Path, as_color: bool) -> tuple[np.ndarray, bool]:
    """Read the pixel values of a mask file.

    Args:
        mask: File.
        as_color: Whether to return the colors of a palette image; otherwise its indices.

    Returns:
        (H, W) int32 values, and whether they are colors (0xRRGGBB).

    Raises:
        ImageError: The file cannot be read.
    """
    samples = open_mask(mask, as_color)
    if samples.ndim == 2:
        return samples, False
    red, green, blue = np.moveaxis(samples.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue, True


def build_label_map(masks: Sequence[tuple[Path, np.ndarray, bool]], options: MaskOptions) -> LabelMap:
    """Build the label map of a set of masks.

    Args:
        masks: File, unique pixel values, and whether these are colors, of each mask.
        options: Names of classes, and void values.

    Raises:
        ValueError: Colors and indices are mixed, or there are too many or fewer than two classes.
    """
    example = {in_color: mask for mask, _, in_color in masks}
    if len(example) > 1:
        raise ValueError(
            f"{example[True]} is in color and {example[False]} holds indices; list the colors of both in --colors FILE"
        )
    in_color = masks[0][2]
    present = sorted({int(value) for _, values, _ in masks for value in values})
    names = dict(options.names) or {value: _default_name(value, in_color) for value in present}
    if options.names and not set(names) & set(present):
        first = ", ".join(_default_name(value, in_color) for value in present[:5])
        raise ValueError(f"none of the values in --colors is in the masks, which hold {first}, ...")
    void = _void_values(options.ignore, names, in_color, VOID in options.names)
    kept = {value: name for value, name in names.items() if value not in void}
    classes = tuple(dict.fromkeys(kept.values()))
    _check_class_count(len(classes), f"{len(present)} {'colors' if in_color else 'values'}")
    values = np.array(sorted(kept), np.int32)
    numbers = np.array([classes.index(kept[int(value)]) for value in values], np.uint8)
    return LabelMap(classes, values, numbers, in_color)


def read_mask_options(colors: Path | None, ignore: Iterable[str]) -> MaskOptions:
    """Read mask options from a file of class names and from the values of `--ignore`.

    Args:
        colors: JSON `{"#804080": "road"}` or `{"3": "road"}`, or a CSV with columns name, r, g, b; or None.
        ignore: Void values or class names; see `MaskOptions.ignore`.

    Raises:
        ValueError: The file cannot be read or is malformed.
    """
    if colors is None:
        return MaskOptions(ignore=tuple(ignore))
    try:
        text = colors.read_text(encoding="utf-8-sig")
        pairs = _from_json(text) if colors.suffix.lower() == ".json" else _from_csv(text)
        names = {_parse_value(value): name for value, name in pairs}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f'{colors}: {error}; expected JSON {{"#804080": "road"}} or a CSV name,r,g,b') from error
    kinds = {value.startswith("#") for value, _ in pairs}
    if len(kinds) != 1:
        raise ValueError(f"{colors} holds {'indices and colors' if kinds else 'nothing'}; give one kind")
    return MaskOptions(names, kinds.pop(), tuple(ignore))


def _check_class_count(count: int, values: str) -> None:
    if count > VOID:
        raise ValueError(
            f"the masks hold {values}, more than {VOID} classes; are they images, JPEG or "
            "numbers of instances? name the classes by --colors FILE"
        )
    if count < 2:
        raise ValueError(
            f"the masks hold {count} class{'es' * (not count)} besides void, and two are needed; index 255 is "
            "void unless --colors names it"
        )


def _from_json(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise ValueError("not an object that maps indices or colors to names")
    return list(content.items())


def _from_csv(text: str) -> list[tuple[str, str]]:
    rows = csv.DictReader(text.splitlines(), strict=True, skipinitialspace=True)
    pairs = []
    for row in rows:
        try:
            levels = [int(row[channel]) for channel in "rgb"]
            pairs.append(("#" + bytes(levels).hex(), row["name"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {rows.line_num} is not name,r,g,b of 0 to 255") from error
    return pairs


def _parse_value(text: str) -> int:
    """Parse an index or a color (#RRGGBB)."""
    if text.isdecimal():
        return int(text)
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{text!r} is neither an index nor a color like #804080")
    return int(text[1:], 16)


def _default_name(value: int, in_color: bool) -> str:
    return f"#{value:06x}" if in_color else str(value)


def _void_values(ignore: Iterable[str], names: Mapping[int, str], in_color: bool, names_have_255: bool) -> set[int]:
    """Return the void values; a text in `ignore` is looked up as a class name first."""
    void = set() if in_color or names_have_255 else {VOID}
    for text in ignore:
        named = {value for value, name in names.items() if name == text}
        if not named and text.startswith("#") != in_color:
            raise ValueError(f"--ignore {text}: the masks hold {'colors, like #000000' if in_color else 'indices'}")
        void |= named or {_parse_value(text)}
    return void
