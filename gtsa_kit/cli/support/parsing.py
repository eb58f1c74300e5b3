"""Parsing of option values; a `ValueError` names the option and what it takes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.cli.support.common import require

if TYPE_CHECKING:
    from gtsa_kit.export.layout import Layout
    from gtsa_kit.export.spec import Range


def parse_side(text: str, option: str) -> tuple[int, int]:
    """Parse `N` or `HEIGHTxWIDTH` to (height, width)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{option} takes N or HEIGHTxWIDTH, got {text!r}")
    return int(parts[0]), int(parts[-1])


def parse_sizes(size: str | None, min_size: str | None, max_size: str | None) -> "tuple[Range, Range]":
    """Parse --size, --min-size and --max-size to the ranges of height and width."""
    from gtsa_kit.export.spec import ANY_SIZE, Range

    if size and (min_size or max_size):
        raise ValueError("--size fixes the size; omit --min-size and --max-size")
    if size:
        height, width = parse_side(size, "--size")
        return Range(height, height), Range(width, width)
    low = parse_side(min_size, "--min-size") if min_size else (ANY_SIZE.min, ANY_SIZE.min)
    high = parse_side(max_size, "--max-size") if max_size else (None, None)
    return Range(low[0], high[0]), Range(low[1], high[1])


def parse_batch(text: str | None) -> "tuple[Range, int | None]":
    """Parse `N`, `MIN:MAX` or `MIN:OPT:MAX` to the range of the batch and the optimal size, if one is given."""
    from gtsa_kit.export.spec import ANY_BATCH, Range

    if text is None:
        return ANY_BATCH, None
    parts = text.split(":")
    if len(parts) > 3 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--batch takes N, MIN:MAX or MIN:OPT:MAX, got {text!r}")
    return Range(int(parts[0]), int(parts[-1])), int(parts[1]) if len(parts) == 3 else None


def parse_capabilities(text: str | None) -> tuple[str, ...]:
    """Parse `8.9,12.0` to compute capabilities."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch(r"\d+\.\d", part) for part in parts):
        raise ValueError(f"--gpu takes compute capabilities, such as 8.6,8.9,12.0, got {text!r}")
    return tuple(dict.fromkeys(parts))


def parse_layers(text: str | None) -> tuple[int, ...]:
    """Parse `2,5,8,11` to block indices, in the order given."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"--layers takes indices of blocks, such as 2,5,8,11, got {text!r}")
    return tuple(int(part) for part in parts)


def parse_layout(text: str | None) -> "Layout | None":
    """Parse `nchw` or `nhwc`."""
    from gtsa_kit.export.layout import LAYOUTS

    if text is not None and text not in LAYOUTS:
        raise ValueError(f"--layout takes {' or '.join(LAYOUTS)}, got {text!r}")
    return text


def parse_color(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Parse `0.5,0.5,0.5` to three numbers, one for each color channel."""
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes three numbers, such as 0.485,0.456,0.406, got {text!r}") from error
    return red, green, blue


def parse_auto(text: str, option: str) -> int | None:
    """Parse a positive number, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{option} must be a number from 1 or auto, got {text!r}")
    return int(text)


def parse_heads(texts: list[str]) -> tuple[tuple[str, Path], ...]:
    """Parse values of --head, `NAME=HEAD`, to names and existing paths."""
    heads: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
            raise ValueError(f"--head takes NAME=HEAD with a name of letters, digits, - and _, got {text!r}")
        if name in heads:
            raise ValueError(f"--head {name} is given twice; choose another name")
        heads[name] = require(Path(path))
    return tuple(heads.items())


def number_or_word(channels: str | None) -> int | str | None:
    """Return the value of --channels, checked with the other settings."""
    return int(channels) if channels is not None and channels.isdecimal() else channels
