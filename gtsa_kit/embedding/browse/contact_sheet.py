"""Contact sheets: images in a grid, with two lines of text below each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gtsa_kit.files import atomic_write

TILE = 200
"""Side of an image's square in pixels."""

_MARGIN, _LINE_HEIGHT, _FONT_SIZE = 10, 17, 13
_BACKGROUND, _TEXT, _PLACEHOLDER, _SECONDARY_TEXT = "#ffffff", "#1a1a1a", "#d4d4d4", "#6b6b6b"


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet with its text."""

    image: Image.Image | None
    """Thumbnail; None for an image that can't be shown, which is drawn as a gray square."""
    title: str
    """First line."""
    name: str
    """Second line."""
    problem: str = ""
    """Reason why the image can't be shown, in its square."""


def write_contact_sheet(tiles: Sequence[Tile], out: Path, columns: int = 5) -> None:
    """Write a contact sheet as PNG or JPEG, by the suffix of `out`.

    Raises:
        ValueError: The suffix is another one.
    """
    check_contact_sheet_path(out)
    rows = -(-len(tiles) // columns)
    width, height = TILE + _MARGIN, TILE + 2 * _LINE_HEIGHT + _MARGIN
    canvas = Image.new("RGB", (_MARGIN + columns * width, _MARGIN + rows * height), _BACKGROUND)
    drawing, font = ImageDraw.Draw(canvas), _font()
    for index, tile in enumerate(tiles):
        left, top = _MARGIN + index % columns * width, _MARGIN + index // columns * height
        _draw_image(canvas, drawing, font, tile, left, top)
        drawing.text((left, top + TILE + 1), _shorten(tile.title, drawing, font), _TEXT, font)
        drawing.text((left, top + TILE + 1 + _LINE_HEIGHT), _shorten(tile.name, drawing, font), _SECONDARY_TEXT, font)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        canvas.save(file, "PNG" if out.suffix.lower() == ".png" else "JPEG", quality=90)


def check_contact_sheet_path(out: Path) -> None:
    """Raise `ValueError` unless the suffix is one of PNG or JPEG."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"a contact sheet must be a .png or .jpg file, got {out}")


def arrange_groups(groups: Iterable[Sequence[Tile]], columns: int) -> list[Tile]:
    """Return tiles in which every group begins a row.

    A group longer than a row is truncated; its last tile shows the number of omitted images.
    """
    arranged: list[Tile] = []
    for group in groups:
        tiles = list(islice(group, columns))
        if len(group) > columns:
            tiles[-1] = Tile(None, f"and {len(group) - columns + 1} more", "")
        arranged += [*tiles, *[Tile(Image.new("RGB", (1, 1), _BACKGROUND), "", "")] * (columns - len(tiles))]
    return arranged


def _draw_image(
    canvas: Image.Image, drawing: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, tile: Tile, x: int, y: int
) -> None:
    if tile.image is None:
        drawing.rectangle((x, y, x + TILE - 1, y + TILE - 1), _PLACEHOLDER)
        drawing.text((x + TILE // 2, y + TILE // 2), _shorten(tile.problem, drawing, font), _TEXT, font, anchor="mm")
        return
    image = tile.image
    canvas.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))


def _shorten(text: str, drawing: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """Return the end of a text that is too long: the end of a path identifies the image better than its start."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[-200:])
    if len(line) == len(text) and drawing.textlength(line, font) <= TILE:
        return line
    while drawing.textlength("…" + line, font) > TILE:
        line = line[1:]
    return "…" + line


def _font() -> ImageFont.FreeTypeFont:
    """Load the font that Matplotlib ships, which has Greek, Cyrillic and more; Pillow's own font is Latin only."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), _FONT_SIZE)
