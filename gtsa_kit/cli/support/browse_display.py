"""Tables, JSON and contact sheets of `gtsa embed search` and `gtsa embed duplicates`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtsa_kit.embedding.browse.duplicates import DuplicateMember, Duplicates
    from gtsa_kit.embedding.browse.search import SearchHit
    from gtsa_kit.embedding.browse.vectors import VectorTable

MAX_SHEET_GROUPS = 40
"""Maximum groups on a contact sheet of duplicates; the table and --json have all groups."""
SHEET_COLUMNS = 6
"""Images of a group on a contact sheet of duplicates."""


def print_hits(hits: "list[SearchHit]", query: str, as_json: bool) -> None:
    """Print search results on standard output, as a table or as JSON."""
    if as_json:
        entries = [{"rank": rank, "cosine": hit.cosine, **vars(hit.row)} for rank, hit in enumerate(hits, 1)]
        print(json.dumps({"query": query, "hits": entries}, indent=2))
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


def write_hits_sheet(
    data: "VectorTable", hits: "list[SearchHit]", image: Path | None, name: str, contact_sheet: Path
) -> None:
    """Write a contact sheet with the query first, then the search results."""
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.data.image_io import open_image
    from gtsa_kit.embedding.browse.contact_sheet import TILE, Tile, write_contact_sheet
    from gtsa_kit.embedding.browse.thumbnails import SourceImages, make_thumbnail

    images = SourceImages(data.source)
    query = make_thumbnail(lambda: images.open(name) if image is None else open_image(image), TILE)
    thumbnails = images.thumbnails([hit.row.path for hit in hits], TILE)
    tiles = [Tile(query, "query", name)]
    for rank, (hit, thumbnail) in enumerate(zip(hits, thumbnails, strict=True), 1):
        tiles.append(Tile(thumbnail, f"{rank}   {hit.cosine:.4f}", hit.row.path))
    write_contact_sheet(tiles, contact_sheet)
    make_console().print(f"wrote {contact_sheet}", soft_wrap=True)


def print_duplicates(duplicates: "Duplicates", threshold: float, as_json: bool) -> None:
    """Print groups of near-duplicates on standard output, as a table or as JSON."""
    if as_json:
        groups = [[{**vars(m.row), "cosine": m.cosine, "drop": m.drop} for m in group] for group in duplicates.groups]
        content = {
            "threshold": threshold,
            "droppable": duplicates.droppable,
            "invalid_vectors": duplicates.invalid_vectors,
            "groups": groups,
        }
        print(json.dumps(content, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("group", "cosine", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("path", overflow="fold")
    for number, group in enumerate(duplicates.groups, 1):
        for index, member in enumerate(group):
            size = f"{member.row.width} x {member.row.height}"
            table.add_row(
                *("" if index else str(number), f"{member.cosine:.4f}" if index else "", size),
                *(_advice(index, member), member.row.path),
            )
    out = Console(highlight=False, markup=False)
    if duplicates.groups:
        out.print(table)
    out.print(_summary(duplicates, threshold), soft_wrap=True)


def _summary(duplicates: "Duplicates", threshold: float) -> str:
    text = f"no two images have a cosine of {threshold:g} or more"
    if duplicates.groups:
        images = sum(len(group) for group in duplicates.groups)
        text = (
            f"{len(duplicates.groups)} groups of {images} images; {duplicates.droppable} could be dropped, each for "
            f"one that is kept at a cosine of {threshold:g} or more"
        )
    if duplicates.invalid_vectors:
        text += f"; {duplicates.invalid_vectors} rows have no direction (zeros, NaN or infinity)"
    return text


def _advice(index: int, member: "DuplicateMember") -> str:
    if not index:
        return "keep"
    return "drop" if member.drop else "linked"


def write_duplicates_sheet(data: "VectorTable", groups: "list[list[DuplicateMember]]", contact_sheet: Path) -> None:
    """Write a contact sheet with one row for each of the first groups."""
    from gtsa_kit.embedding.browse.contact_sheet import TILE, Tile, arrange_groups, write_contact_sheet
    from gtsa_kit.embedding.browse.thumbnails import SourceImages

    images = SourceImages(data.source)
    rows: list[list[Tile]] = []
    for group in groups[:MAX_SHEET_GROUPS]:
        thumbnails = images.thumbnails([member.row.path for member in group[:SHEET_COLUMNS]], TILE)
        titles = (f"{_advice(i, m)}   {m.cosine:.4f}" if i else "keep" for i, m in enumerate(group))
        tiles = [Tile(image, title, m.row.path) for image, title, m in zip(thumbnails, titles, group, strict=False)]
        rows.append(tiles + [Tile(None, "", "")] * (len(group) - len(tiles)))
    write_contact_sheet(arrange_groups(rows, SHEET_COLUMNS), contact_sheet, SHEET_COLUMNS)
