"""A contact sheet: images in a grid, a few words below each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gtsa_kit.files import atomic_write

TILE = 200
"""Pixels, of an image's square."""

_MARGIN, _LINE, _FONT = 10, 17, 13
_PAPER, _INK, _GRAY, _FAINT = "#ffffff", "#1a1a1a", "#d4d4d4", "#6b6b6b"


@dataclass(frozen=True)
class Tile:
    """One square of a sheet."""

    image: Image.Image | None
    """None of an image that is missing or broken: a gray square."""
    title: str
    name: str


def write_sheet(tiles: Sequence[Tile], out: Path, columns: int = 5) -> None:
    """Write a PNG or a JPEG, as the suffix says.

    Raises:
        ValueError: Another suffix.
    """
    check_sheet_name(out)
    rows = -(-len(tiles) // columns)
    width, height = TILE + _MARGIN, TILE + 2 * _LINE + _MARGIN
    sheet = Image.new("RGB", (_MARGIN + columns * width, _MARGIN + rows * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), _font()
    for index, tile in enumerate(tiles):
        left, top = _MARGIN + index % columns * width, _MARGIN + index // columns * height
        _paste(sheet, draw, font, tile, left, top)
        draw.text((left, top + TILE + 1), _fit(tile.title, draw, font), _INK, font)
        draw.text((left, top + TILE + 1 + _LINE), _fit(tile.name, draw, font), _FAINT, font)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        sheet.save(file, "PNG" if out.suffix.lower() == ".png" else "JPEG", quality=90)


def check_sheet_name(out: Path) -> None:
    """`ValueError` unless a sheet can be written under that name."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"a contact sheet is a .png or a .jpg, got {out}")


def in_rows(groups: Iterable[Sequence[Tile]], columns: int) -> list[Tile]:
    """Tiles in which every group begins a row; groups longer than a row are cut, the last tile saying how many more."""
    found: list[Tile] = []
    for group in groups:
        shown = list(islice(group, columns))
        if len(group) > columns:
            shown[-1] = Tile(None, f"and {len(group) - columns + 1} more", "")
        found += [*shown, *[Tile(Image.new("RGB", (1, 1), _PAPER), "", "")] * (columns - len(shown))]
    return found


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, tile: Tile, x: int, y: int
) -> None:
    if tile.image is None:
        draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), _GRAY)
        draw.text((x + TILE // 2, y + TILE // 2), _fit(tile.name, draw, font), _INK, font, anchor="mm")
        return
    image = tile.image
    sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))


def _fit(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """The end of a text that is too long: of paths, it tells more than the start."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[-200:])
    if len(line) == len(text) and draw.textlength(line, font) <= TILE:
        return line
    while draw.textlength("…" + line, font) > TILE:
        line = line[1:]
    return "…" + line


def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's own file: Latin, Greek, Cyrillic and more; Pillow's built-in font has Latin alone."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), _FONT)
