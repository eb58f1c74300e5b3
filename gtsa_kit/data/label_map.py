"""Label maps: the values of mask pixels (indices or colors) to class numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtsa_kit.data.image_io import open_mask
from gtsa_kit.data.label_colors import Color, fill_colors, int_to_color, palette_colors

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
    colors: Mapping[int, Color] = field(default_factory=dict)
    """Color in pictures of pixel values in `names`; other labels get one by `label_colors.fill_colors`."""
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
    void: frozenset[int]
    """Pixel values that are declared void: by `ignore`, and 255 if it is an index without a name."""
    colors: tuple[Color, ...]
    """Color of each class in pictures: the one that the user gave, else the color or the palette's color in the masks,
    else one of `label_colors.fill_colors`."""

    @cached_property
    def _table(self) -> np.ndarray:
        """Class number of every index up to the largest with a class, and `VOID` for all above."""
        table = np.full(int(self.values.max()) + 2, VOID, np.uint8)
        table[self.values] = self.class_numbers
        return table

    @property
    def ids(self) -> tuple[int, ...]:
        """Value of each class in the masks, the smallest if it has several: an index, or a color as 0xRRGGBB."""
        return tuple(int(self.values_of(number)[0]) for number in range(len(self.classes)))

    def values_of(self, number: int) -> np.ndarray:
        """Return the values of a class in the masks, ascending."""
        values: np.ndarray = self.values[self.class_numbers == number]
        return values

    def unknown(self, values: np.ndarray) -> np.ndarray:
        """Return which of these pixel values belong to no class and are not declared void, as a bool array."""
        return ~np.isin(values, [*self.values, *self.void])

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the uint8 class numbers of pixel values of any shape, `VOID` for those of no class."""
        if not self.in_color:
            return self._table[np.minimum(values.astype(np.uint32), len(self._table) - 1)]
        index = np.minimum(np.searchsorted(self.values, values), len(self.values) - 1)
        return np.where(self.values[index] == values, self.class_numbers[index], np.uint8(VOID))


class MaskValues(NamedTuple):
    """Pixel values of a mask file."""

    values: np.ndarray
    """Values (H, W), int32."""
    in_color: bool
    """True if the values are colors (0xRRGGBB)."""
    orientation: int
    """EXIF orientation of the file, 1 to 8, which has been applied."""
    nodata: int | None = None
    """Value of pixels without data that the file states."""


def read_mask_values(mask: Path, as_color: bool) -> MaskValues:
    """Read the pixel values of a mask file.

    Args:
        mask: File.
        as_color: Whether to return the colors of a palette image; otherwise its indices.

    Raises:
        ImageError: The file cannot be read.
    """
    samples, orientation, nodata = open_mask(mask, as_color)
    if samples.ndim == 2:
        return MaskValues(samples, False, orientation, nodata)
    red, green, blue = np.moveaxis(samples.astype(np.int32), -1, 0)
    color = None if nodata is None else nodata * 0x010101
    return MaskValues((red << 16) | (green << 8) | blue, True, orientation, color)


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
            f"{example[True]} is in color and {example[False]} holds indices; list the colors of both in --labels FILE"
        )
    in_color = masks[0][2]
    if options.names and in_color != options.in_color:
        raise ValueError(
            f"--labels names indices and {masks[0][0]} is in color; "
            'write {road: "#804080"}, or save the masks as indices'
        )
    present = sorted({int(value) for _, values, _ in masks for value in values})
    names = dict(options.names) or {value: _default_name(value, in_color) for value in present}
    if options.names and not set(names) & set(present):
        first = ", ".join(_default_name(value, in_color) for value in present[:5])
        kinds = "; for masks of indices write {0: road}" if in_color else ""
        raise ValueError(f"none of the values in --labels is in the masks, which hold {first}, ...{kinds}")
    void = _void_values(options.ignore, names, in_color, VOID in options.names)
    kept = {value: name for value, name in names.items() if value not in void}
    classes = tuple(dict.fromkeys(kept.values()))
    _check_class_count(len(classes), f"{len(present)} {'colors' if in_color else 'values'}")
    values = np.array(sorted(kept), np.int32)
    numbers = np.array([classes.index(kept[int(value)]) for value in values], np.uint8)
    colors = _class_colors(kept, options.colors or _mask_colors(masks[0][0], kept, in_color))
    return LabelMap(
        classes, values, numbers, in_color, frozenset(void), fill_colors([colors.get(name) for name in classes])
    )


def _mask_colors(mask: Path, values: Iterable[int], in_color: bool) -> dict[int, Color]:
    """Return the colors of pixel values in a mask: the values themselves, or those of its palette."""
    return {value: int_to_color(value) for value in values} if in_color else palette_colors(mask, values)


def _class_colors(names: Mapping[int, str], colors: Mapping[int, Color]) -> dict[str, Color]:
    """Return the color of each class, that of its first value that has one."""
    result: dict[str, Color] = {}
    for value, name in names.items():
        if value in colors:
            result.setdefault(name, colors[value])
    return result


def _check_class_count(count: int, values: str) -> None:
    if count > VOID:
        raise ValueError(
            f"the masks hold {values}, more than {VOID} classes; are they images, JPEG or "
            "numbers of instances? name the classes by --labels FILE"
        )
    if count < 2:
        raise ValueError(
            f"the masks hold {count} class{'es' * (not count)} besides void, and two are needed; index 255 is "
            "void unless --labels names it"
        )


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
