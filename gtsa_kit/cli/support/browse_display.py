"""What `gtsa embed search` and `gtsa embed duplicates` show."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtsa_kit.embedding.browse.duplicates import Duplicates, Member
    from gtsa_kit.embedding.browse.search import Hit
    from gtsa_kit.embedding.browse.vectors import Vectors

SHEET_GROUPS = 40
"""Groups on a sheet of duplicates; the table and --json have all of them."""


def show_hits(hits: "list[Hit]", query: str, as_json: bool) -> None:
    """What was found, as a table or as JSON, on standard output."""
    if as_json:
        found = [{"rank": rank, "cosine": hit.cosine, **vars(hit.row)} for rank, hit in enumerate(hits, 1)]
        print(json.dumps({"query": query, "hits": found}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("path", overflow="fold")
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.cosine:.4f}", hit.row.path)
    Console(highlight=False, markup=False).print(table)


def write_hits(data: "Vectors", hits: "list[Hit]", image: Path | None, name: str, sheet: Path) -> None:
    """A contact sheet: the query, then what was found."""
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.data.image_io import open_image
    from gtsa_kit.embedding.browse.contact_sheet import TILE, Tile, write_sheet
    from gtsa_kit.embedding.browse.thumbnails import SourceImages, small

    images = SourceImages(data.source)
    first = small(lambda: images.open(name) if image is None else open_image(image), TILE)
    others = images.thumbnails([hit.row.path for hit in hits], TILE)
    tiles = [Tile(first, "query", name)]
    for rank, (hit, picture) in enumerate(zip(hits, others, strict=True), 1):
        tiles.append(Tile(picture, f"{rank}   {hit.cosine:.4f}", hit.row.path))
    write_sheet(tiles, sheet)
    make_console().print(f"wrote {sheet}", soft_wrap=True)


def show_duplicates(found: "Duplicates", threshold: float, as_json: bool) -> None:
    """The groups, as a table or as JSON, on standard output."""
    if as_json:
        groups = [[{**vars(m.row), "cosine": m.cosine, "drop": m.drop} for m in group] for group in found.groups]
        said = {"threshold": threshold, "droppable": found.droppable, "unsound": found.unsound, "groups": groups}
        print(json.dumps(said, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("group", "cosine", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("path", overflow="fold")
    for number, group in enumerate(found.groups, 1):
        for place, member in enumerate(group):
            size = f"{member.row.width} x {member.row.height}"
            table.add_row(
                *("" if place else str(number), f"{member.cosine:.4f}" if place else "", size),
                *(_advice(place, member), member.row.path),
            )
    out = Console(highlight=False, markup=False)
    if found.groups:
        out.print(table)
    out.print(_summary(found, threshold), soft_wrap=True)


def _summary(found: "Duplicates", threshold: float) -> str:
    said = f"no two images have a cosine of {threshold:g} or more"
    if found.groups:
        inside = sum(len(group) for group in found.groups)
        said = (
            f"{len(found.groups)} groups of {inside} images; {found.droppable} could be dropped, each for one "
            f"that is kept at a cosine of {threshold:g} or more"
        )
    return said + (f"; {found.unsound} rows have no direction (zeros, NaN or infinity)" if found.unsound else "")


def _advice(place: int, member: "Member") -> str:
    if not place:
        return "keep"
    return "drop" if member.drop else "linked"


def write_groups(data: "Vectors", groups: "list[list[Member]]", sheet: Path) -> None:
    """A contact sheet with a row for each of the first groups."""
    from gtsa_kit.embedding.browse.contact_sheet import TILE, Tile, in_rows, write_sheet
    from gtsa_kit.embedding.browse.thumbnails import SourceImages

    columns, images = 6, SourceImages(data.source)
    rows: list[list[Tile]] = []
    for group in groups[:SHEET_GROUPS]:
        pictures = images.thumbnails([member.row.path for member in group[:columns]], TILE)
        titles = (f"{_advice(i, m)}   {m.cosine:.4f}" if i else "keep" for i, m in enumerate(group))
        tiles = [Tile(p, t, m.row.path) for p, t, m in zip(pictures, titles, group, strict=False)]
        rows.append(tiles + [Tile(None, "", "")] * (len(group) - len(tiles)))
    write_sheet(in_rows(rows, columns), sheet, columns)
