"""What the pixels of masks mean: indices or colors to numbers of classes."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_io import open_mask

VOID = 255
"""In label maps: no class, counted nowhere. So there are 255 classes at most."""


@dataclass(frozen=True)
class MaskOptions:
    """What a user says of masks."""

    table: Mapping[int, str] = field(default_factory=dict)
    """Names of classes by code; codes that are not in it are void. Empty: each code that is found is a class."""
    in_color: bool = False
    """The table's codes are colors."""
    ignore: tuple[str, ...] = ()
    """Codes or names that are void: `11`, `#000000`, `sky`. The index 255 is, unless the table names it."""


@dataclass(frozen=True)
class Codes:
    """Codes of pixels to classes. A code is an index, or a color as 0xRRGGBB."""

    classes: tuple[str, ...]
    known: np.ndarray
    """Codes of classes, rising."""
    numbers: np.ndarray
    """uint8, of their classes."""
    in_color: bool

    def labels(self, mask: Path) -> np.ndarray:
        """(H, W) uint8 of a mask's file; raises `ImageError`."""
        return self.of(codes_of(mask, self.in_color)[0])

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Numbers of classes of codes, `VOID` of others."""
        place = np.minimum(np.searchsorted(self.known, codes), len(self.known) - 1)
        return np.where(self.known[place] == codes, self.numbers[place], np.uint8(VOID))


def codes_of(mask: Path, colors: bool) -> tuple[np.ndarray, bool]:
    """(H, W) int32, and whether they are colors; raises `ImageError`."""
    samples = open_mask(mask, colors)
    if samples.ndim == 2:
        return samples, False
    red, green, blue = np.moveaxis(samples.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue, True


def choose_codes(looks: Sequence[tuple[Path, np.ndarray, bool]], options: MaskOptions) -> Codes:
    """The classes of a set of masks.

    Args:
        looks: (file, its codes, whether they are colors) of each.
        options: Names, and what is void.

    Raises:
        ValueError: Colors and indices are mixed, there are too many of either, or fewer than two classes.
    """
    by_kind = {in_color: mask for mask, _, in_color in looks}
    if len(by_kind) > 1:
        raise ValueError(f"{by_kind[True]} is in color and {by_kind[False]} holds indices; name both by --colors FILE")
    in_color = looks[0][2]
    found = sorted({int(code) for _, codes, _ in looks for code in codes})
    table = dict(options.table) or {code: _name(code, in_color) for code in found}
    if options.table and not set(table) & set(found):
        seen = ", ".join(_name(code, in_color) for code in found[:5])
        raise ValueError(f"none of the codes in --colors is in the masks, which hold {seen}, ...")
    void = _void(options.ignore, table, in_color, VOID in options.table)
    kept = {code: name for code, name in table.items() if code not in void}
    classes = tuple(dict.fromkeys(kept.values()))
    if len(classes) > VOID:
        what = "colors" if in_color else "values"
        raise ValueError(
            f"the masks hold {len(found)} {what}, more than {VOID} classes; are they images, JPEG or "
            "numbers of instances? name the classes by --colors FILE"
        )
    if len(classes) < 2:
        raise ValueError(
            f"the masks hold {len(classes)} class{'es' * (not classes)} besides void, and it takes two; index 255 is "
            "void unless --colors names it"
        )
    known = np.array(sorted(kept), np.int32)
    numbers = np.array([classes.index(kept[int(code)]) for code in known], np.uint8)
    return Codes(classes, known, numbers, in_color)


def read_options(colors: Path | None, ignore: Iterable[str]) -> MaskOptions:
    """Options out of a file of names and texts.

    Args:
        colors: JSON `{"#804080": "road"}` or `{"3": "road"}`, or a CSV with columns name, r, g, b.
        ignore: See `MaskOptions`.

    Raises:
        ValueError: The file can't be read; the message says what is wrong in it.
    """
    if colors is None:
        return MaskOptions(ignore=tuple(ignore))
    try:
        text = colors.read_text(encoding="utf-8-sig")
        pairs = _from_json(text) if colors.suffix.lower() == ".json" else _from_csv(text)
        table = {_code(code): name for code, name in pairs}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f'{colors}: {error}; it takes JSON {{"#804080": "road"}} or a CSV name,r,g,b') from error
    kinds = {code.startswith("#") for code, _ in pairs}
    if len(kinds) != 1:
        raise ValueError(f"{colors} holds {'indices and colors' if kinds else 'nothing'}; give one kind")
    return MaskOptions(table, kinds.pop(), tuple(ignore))


def _from_json(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise ValueError("not an object of names by color")
    return list(content.items())


def _from_csv(text: str) -> list[tuple[str, str]]:
    rows = csv.DictReader(text.splitlines(), strict=True, skipinitialspace=True)
    found = []
    for row in rows:
        try:
            levels = [int(row[channel]) for channel in "rgb"]
            found.append(("#" + bytes(levels).hex(), row["name"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {rows.line_num} is not name,r,g,b of 0 to 255") from error
    return found


def _code(text: str) -> int:
    if text.isdecimal():
        return int(text)
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{text!r} is neither an index nor a color like #804080")
    return int(text[1:], 16)


def _name(code: int, in_color: bool) -> str:
    return f"#{code:06x}" if in_color else str(code)


def _void(ignore: Iterable[str], table: Mapping[int, str], in_color: bool, named_by_user: bool) -> set[int]:
    """Codes; the names of a table come first."""
    void = set() if in_color or named_by_user else {VOID}
    for text in ignore:
        named = {code for code, name in table.items() if name == text}
        if not named and text.startswith("#") != in_color:
            raise ValueError(f"--ignore {text}: the masks hold {'colors, like #000000' if in_color else 'indices'}")
        void |= named or {_code(text)}
    return void
