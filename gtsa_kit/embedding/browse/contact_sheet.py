"""Contact sheets: images in a grid, with two lines of text below each."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFont

from gtsa_kit.data.entries import has_image_suffix
from gtsa_kit.data.walk import is_own_output
from gtsa_kit.extras import require
from gtsa_kit.figures import DPI, FORMATS, figure_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE = 320
"""Side of an image's square in pixels: 1.6 inches in print."""
SHEET_FORMATS = (*FORMATS, "jpg", "jpeg")
"""File formats of contact sheets."""

_MARGIN, _LINE_HEIGHT, _FONT_POINTS = 16, 26, 7.0
_PLACEHOLDER, _TEXT, _SECONDARY_TEXT = "#d4d4d4", "#1a1a1a", "#595959"


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
    """Write a contact sheet in the format of the suffix of `out`.

    Raises:
        ValueError: The suffix is none of `SHEET_FORMATS`.
    """
    check_contact_sheet_path(out)
    save_figure(draw_contact_sheet(tiles, columns), out, SHEET_FORMATS)


def check_outside_images(path: Path, sources: Sequence[str]) -> None:
    """Raise `ValueError` for a contact sheet that would be one of the images of its dataset, and read as such.

    Args:
        path: The contact sheet.
        sources: Locations of the images; below them, only folders that gtsa-kit wrote are left out.
    """
    absolute = path.absolute()
    for folder in map(Path, sources):
        if has_image_suffix(path.name) and folder.is_dir() and absolute.is_relative_to(folder.absolute()):
            inside = [parent for parent in absolute.parents if parent.is_relative_to(folder.absolute())]
            if not any(map(is_own_output, inside)):
                raise ValueError(f"{path} lies in {folder}, the images of the dataset; write it to another folder")


def check_contact_sheet_path(out: Path) -> None:
    """Raise `ValueError` unless the suffix is one of `SHEET_FORMATS`."""
    require("matplotlib", "a contact sheet")
    if out.suffix.lower().removeprefix(".") not in SHEET_FORMATS:
        raise ValueError(f"a contact sheet must be a .png, .jpg, .svg or .pdf file, got {out}")


@figure_style()
def draw_contact_sheet(tiles: Sequence[Tile], columns: int = 5) -> "Figure":
    """Draw images in a grid on one axes, whose coordinates are pixels at the resolution of all figures."""
    from matplotlib.figure import Figure

    rows = -(-len(tiles) // columns)
    step_x, step_y = TILE + _MARGIN, TILE + 2 * _LINE_HEIGHT + _MARGIN
    width, height = _MARGIN + columns * step_x, _MARGIN + rows * step_y
    figure = Figure(figsize=(width / DPI, height / DPI))
    axis = figure.add_axes((0, 0, 1, 1))
    shorten = _shortener()
    for index, tile in enumerate(tiles):
        left, top = _MARGIN + index % columns * step_x, _MARGIN + index // columns * step_y
        _draw_image(axis, tile, left, top, shorten)
        for line, (text, color) in enumerate(((tile.title, _TEXT), (tile.name, _SECONDARY_TEXT))):
            y = top + TILE + 4 + line * _LINE_HEIGHT
            axis.text(left, y, shorten(text), color=color, fontsize=_FONT_POINTS, va="top")
    axis.set_axis_off()
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def arrange_groups(groups: Iterable[Sequence[Tile]], columns: int) -> list[Tile]:
    """Return tiles in which every group begins a row.

    A group longer than a row is truncated; its last tile shows the number of omitted images.
    """
    arranged: list[Tile] = []
    for group in groups:
        tiles = list(islice(group, columns))
        if len(group) > columns:
            tiles[-1] = Tile(None, f"and {len(group) - columns + 1} more", "")
        arranged += [*tiles, *[Tile(Image.new("RGB", (1, 1), "white"), "", "")] * (columns - len(tiles))]
    return arranged


def _draw_image(axis: "Axes", tile: Tile, x: int, y: int, shorten: Callable[[str], str]) -> None:
    from matplotlib.patches import Rectangle

    if tile.image is None:
        axis.add_patch(Rectangle((x, y), TILE, TILE, facecolor=_PLACEHOLDER))
        middle = (x + TILE / 2, y + TILE / 2)
        axis.text(*middle, shorten(tile.problem), color=_TEXT, fontsize=_FONT_POINTS, ha="center", va="center")
        return
    left, top = x + (TILE - tile.image.width) // 2, y + (TILE - tile.image.height) // 2
    extent = (left, left + tile.image.width, top + tile.image.height, top)
    axis.imshow(np.asarray(tile.image), extent=extent, interpolation="nearest")


def _shortener() -> Callable[[str], str]:
    """Return a function that cuts a text to the width of a tile, as drawn in the font of all figures.

    It keeps the end: the end of a path identifies the image better than its start.
    """
    from matplotlib import get_data_path

    path = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(str(path), _FONT_POINTS * DPI / 72)

    def shorten(text: str) -> str:
        line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[-200:])
        if len(line) == len(text) and font.getlength(line) <= TILE:
            return line
        while font.getlength("…" + line) > TILE:
            line = line[1:]
        return "…" + line

    return shorten
