"""Opening of dataset folders; tables, JSON and contact sheets of `gtsa embed search` and `gtsa embed duplicates`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.cli.support.common import require

if TYPE_CHECKING:
    from gtsa_kit.embedding.browse.contact_sheet import Tile
    from gtsa_kit.embedding.browse.duplicates import DuplicateMember
    from gtsa_kit.embedding.browse.search import SearchHit
    from gtsa_kit.embedding.browse.source_files import FileState
    from gtsa_kit.embedding.browse.thumbnails import SourceImages
    from gtsa_kit.embedding.browse.vectors import ImageRow, VectorTable

MAX_SHEET_GROUPS = 40
"""Maximum groups on a contact sheet of duplicates; the table and --json have all groups."""
SHEET_COLUMNS = 6
"""Images of a group on a contact sheet of duplicates."""
MAX_NAMES = 3
"""Names of rows in a line about them."""


def open_with_note(folder: Path) -> "VectorTable":
    """Open a dataset folder, and print a note if it is not complete."""
    from gtsa_kit.embedding.browse.vectors import open_vectors

    data = open_vectors(require(folder))
    if not data.complete:
        print_note(
            f"{folder} is not complete: only the {len(data)} committed rows are used; gtsa embed with --resume adds "
            "the others"
        )
    return data


def choose_sheet(requested: Path | None, default: Path | None = None) -> tuple[Path | None, str]:
    """Return the contact sheet to write, and a line that tells why there is none by default.

    Raises:
        ValueError: The suffix is of no format.
        ModuleNotFoundError: One is requested, and matplotlib, which draws it, is not installed.
    """
    from gtsa_kit.embedding.browse.contact_sheet import check_contact_sheet_path

    path = requested or default
    if path is None:
        return None, ""
    try:
        check_contact_sheet_path(path)
    except ModuleNotFoundError as error:
        if requested:
            raise
        return None, f"not drawn: {error}"
    return path, ""


def check_sheet_outside(path: Path | None, data: "VectorTable") -> None:
    """Raise `ValueError` for a contact sheet that would be one of the images of its dataset."""
    from gtsa_kit.embedding.browse.contact_sheet import check_outside_images

    if path:
        check_outside_images(path, data.sources)


def print_hits(hits: "list[SearchHit]", states: "list[FileState]", query: str, as_json: bool) -> None:
    """Print search results on standard output, as a table or as JSON."""
    if as_json:
        entries = [
            {"rank": rank, "cosine": hit.cosine, **_row_fields(hit.row), "file": state}
            for rank, (hit, state) in enumerate(zip(hits, states, strict=True), 1)
        ]
        print(json.dumps({"query": query, "hits": entries}, indent=2))
        return
    from rich.table import Table

    from gtsa_kit.cli.support.progress import make_result_console

    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("path", overflow="fold")
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.cosine:.4f}", hit.row.path)
    make_result_console().print(table)


def write_hits_sheet(
    images: "SourceImages", hits: "list[SearchHit]", query: "Path | ImageRow", name: str, contact_sheet: Path
) -> None:
    """Write a contact sheet with the query, a file or a row, first, then the search results."""
    from gtsa_kit.data.image_io import read_file
    from gtsa_kit.embedding.browse.contact_sheet import TILE, Tile, write_contact_sheet
    from gtsa_kit.embedding.browse.thumbnails import Thumbnail, shrink

    rows = [hit.row for hit in hits]
    if isinstance(query, Path):
        first = Thumbnail(shrink(images.picture(read_file(query), str(query)), TILE))
        thumbnails = images.thumbnails(rows, TILE)
    else:
        thumbnails = images.thumbnails([query, *rows], TILE)
        first = next(thumbnails)
    tiles = [Tile(first.image, "query", name, first.problem)]
    for rank, (hit, thumbnail) in enumerate(zip(hits, thumbnails, strict=True), 1):
        tiles.append(Tile(thumbnail.image, f"{rank}   {hit.cosine:.4f}", hit.row.path, thumbnail.problem))
    write_contact_sheet(tiles, contact_sheet)
    print_note(describe_tiles(tiles))
    print_note(f"wrote {contact_sheet}")


def describe_tiles(tiles: "Sequence[Tile]") -> str:
    """Return a sentence about the images of a contact sheet that are not shown; "" if all are."""
    from gtsa_kit.embedding.browse.thumbnails import describe_problems

    named = [tile for tile in tiles if tile.name]
    return describe_problems((tile.problem for tile in named), len(named))


def print_note(text: str) -> None:
    """Print a line on standard error, unless it is empty."""
    from gtsa_kit.cli.support.progress import make_console

    if text:
        make_console().print(text, soft_wrap=True, markup=False)


def _row_fields(row: "ImageRow") -> dict[str, object]:
    return {"index": row.index, "path": row.path, "width": row.width, "height": row.height, "sha256": row.sha256}


@dataclass(frozen=True)
class Advice:
    """Advice on one image of a group of near-duplicates."""

    member: "DuplicateMember"
    state: "FileState"
    text: str
    """keep, drop, or the state of a file that is no longer the one that was embedded."""


def advise(group: "Sequence[DuplicateMember]", states: "Sequence[FileState]") -> list[Advice]:
    """Return advice on a group. The first unchanged image is kept; nothing is dropped without one.

    Where all images of a group are missing, as on a machine without the images, the advice is that of the vectors.
    """
    from gtsa_kit.embedding.browse.source_files import FileState

    lost = (FileState.CHANGED, FileState.MISSING) if set(states) != {FileState.MISSING} else ()
    kept = next((index for index, state in enumerate(states) if state not in lost), None)
    texts = [
        "keep" if index == kept else state.value if state in lost else "drop" for index, state in enumerate(states)
    ]
    return [Advice(*item) for item in zip(group, states, texts, strict=True)]


def print_duplicates(
    groups: Sequence[Sequence[Advice]], invalid: "Sequence[ImageRow]", threshold: float, as_json: bool
) -> None:
    """Print groups of near-duplicates on standard output, as a table or as JSON."""
    if as_json:
        content = {
            "threshold": threshold,
            "droppable": _droppable(groups),
            "invalid_vectors": [row.path for row in invalid],
            "groups": [[_advice_fields(advice) for advice in group] for group in groups],
        }
        print(json.dumps(content, indent=2))
        return
    from rich.table import Table

    from gtsa_kit.cli.support.progress import make_result_console

    table = Table(box=None, pad_edge=False)
    for column in ("group", "cosine", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("path", overflow="fold")
    for number, group in enumerate(groups, 1):
        for index, advice in enumerate(group):
            row, cosine = advice.member.row, f"{advice.member.cosine:.4f}"
            size = f"{row.width} x {row.height}"
            table.add_row("" if index else str(number), cosine if index else "", size, advice.text, row.path)
    out = make_result_console()
    if groups:
        out.print(table)
    out.print(_summary(groups, threshold), soft_wrap=True)


def write_duplicates_sheet(images: "SourceImages", groups: Sequence[Sequence[Advice]], contact_sheet: Path) -> None:
    """Write a contact sheet with one row for each of the first groups."""
    from gtsa_kit.embedding.browse.contact_sheet import TILE, Tile, arrange_groups, write_contact_sheet

    rows: list[list[Tile]] = []
    for group in groups[:MAX_SHEET_GROUPS]:
        thumbnails = images.thumbnails([advice.member.row for advice in group[:SHEET_COLUMNS]], TILE)
        titles = (f"{a.text}   {a.member.cosine:.4f}" if i else a.text for i, a in enumerate(group))
        tiles = [
            Tile(thumbnail.image, title, advice.member.row.path, thumbnail.problem)
            for thumbnail, title, advice in zip(thumbnails, titles, group, strict=False)
        ]
        rows.append(tiles + [Tile(None, "", "")] * (len(group) - len(tiles)))
    arranged = arrange_groups(rows, SHEET_COLUMNS)
    write_contact_sheet(arranged, contact_sheet, SHEET_COLUMNS)
    print_note(describe_tiles(arranged))
    print_note(f"wrote {contact_sheet}")


def describe_invalid(rows: "Sequence[ImageRow]") -> str:
    """Return a sentence that names rows without a direction; "" if there are none."""
    if not rows:
        return ""
    first, rest = ", ".join(row.path for row in rows[:MAX_NAMES]), len(rows) - MAX_NAMES
    names = first + (f" and {rest} more" if rest > 0 else "")
    return f"left out, since their vectors have no direction (zeros, NaN or infinity): {len(rows)} rows, {names}"


def _summary(groups: Sequence[Sequence[Advice]], threshold: float) -> str:
    if not groups:
        return f"no two images have a cosine of {threshold:g} or more"
    images = sum(map(len, groups))
    lost = sum(advice.state in ("changed", "missing") for group in groups for advice in group)
    return (
        f"{len(groups)} groups of {images} images; {_droppable(groups)} could be dropped, each for one that is kept at "
        f"a cosine of {threshold:g} or more" + (f"; {lost} are changed or missing now" if lost else "")
    )


def _droppable(groups: Sequence[Sequence[Advice]]) -> int:
    return sum(advice.text == "drop" for group in groups for advice in group)


def _advice_fields(advice: Advice) -> dict[str, object]:
    fields = {"cosine": advice.member.cosine, "drop": advice.text == "drop", "file": advice.state}
    return _row_fields(advice.member.row) | fields
