"""gtsa embed search, map and duplicates: browse_app at a dataset folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.browse_display import show_duplicates, show_hits, write_groups, write_hits
from gtsa_kit.cli.support.common import require

if TYPE_CHECKING:
    from gtsa_kit.embedding.browse.search import Hit
    from gtsa_kit.embedding.browse.vectors import Vectors

browse_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Dataset = Annotated[Path, typer.Argument(help="What gtsa embed wrote (its --out).", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@browse_app.command("search")
def search_command(
    folder: Dataset,
    image: Annotated[Path | None, typer.Option(help="Image to look for, anywhere.", metavar="FILE")] = None,
    row: Annotated[str | None, typer.Option(help="Or one of the dataset, by its `path`.", metavar="PATH")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to find.")] = 10,
    model: Annotated[
        Path | None, typer.Option(help="The model of the vectors, where it lies now if it was moved.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet, .png or .jpg. Default DIR/search.jpg.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Find the images that are most like one: exact cosine, best first.

    Prints rank, cosine and path, and writes a contact sheet with the query first.

    [bold]Examples[/bold]

      gtsa embed search vectors/ --image beach.jpg --top 20

      gtsa embed search vectors/ --row 2019/img10.jpg --json
    """
    if (image is None) == (row is None):
        raise ValueError("give --image FILE or --row PATH, one of the two")
    from gtsa_kit.embedding.browse.contact_sheet import check_sheet_name

    check_sheet_name(sheet := sheet or folder / "search.jpg")
    data = _open(folder)
    if image is not None:
        query = _embedded(data, require(image), model, device)
        name, leave_out = str(image), None
    else:
        found = data.find(str(row))
        query, name, leave_out = data.vectors([found.index])[0], found.path, found.index
    hits = _search(data, query, top, leave_out)
    show_hits(hits, name, as_json)
    write_hits(data, hits, image, name, sheet)


@browse_app.command("map")
def map_command(
    folder: Dataset,
    out: Annotated[Path | None, typer.Option(help="Page to write. Default DIR/map.html.", metavar="FILE")] = None,
    layout: Annotated[
        str, typer.Option(help="pca: at once, any size; tsne: shows clusters, needs scikit-learn, up to 5,000 points.")
    ] = "pca",
    points: Annotated[int, typer.Option(min=1, help="At most, evenly spread over the dataset.")] = 100_000,
    thumbnails: Annotated[
        int, typer.Option(min=0, help="Images inside the file, 5 KB each; of the others it holds a relative link.")
    ] = 2_000,
    device: Device = "auto",
) -> None:
    """Draw the dataset as a map in one HTML file: like images lie together.

    The page opens offline. Point at an image to see it, its path and its nearest neighbors.

    [bold]Examples[/bold]

      gtsa embed map vectors/

      gtsa embed map vectors/ --layout tsne --points 5000 --out looks/map.html
    """
    data = _open(folder)
    out = out or folder / "map.html"
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.browse.projection import make_atlas
    from gtsa_kit.embedding.browse.projection_page import write_page
    from gtsa_kit.embedding.browse.thumbnails import SourceImages
    from gtsa_kit.export.runtime.load import pick_device

    shown = make_console()
    with Steps(shown) as steps:
        steps.begin("finding neighbors", min(points, len(data)), unit="images")
        atlas = make_atlas(data, layout, points, pick_device(device), lambda done, _: steps.update(done))
        steps.begin("making thumbnails", min(thumbnails, len(atlas.rows)), unit="images")
        title = f"Map of {Path(data.source or folder.absolute()).name}"
        images = SourceImages(data.source)
        write_page(atlas, images, out, title, thumbnails, lambda done, _: steps.update(done))
    if atlas.unsound:
        shown.print(f"{atlas.unsound} rows have no direction (zeros, NaN or infinity) and are left out")
    if len(atlas.rows) + atlas.unsound < atlas.total:
        shown.print(f"{len(atlas.rows)} of {atlas.total} rows are shown, evenly spread; more with --points")
    shown.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB", soft_wrap=True)


@browse_app.command("duplicates")
def duplicates_command(
    folder: Dataset,
    threshold: Annotated[
        float, typer.Option(help="Least cosine of near-duplicates, above 0, up to 1. Depends on the model: look.")
    ] = 0.995,
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet to write, .png or .jpg.", metavar="FILE")] = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """List images that are nearly the same, in groups; nothing is deleted.

    Of each group the image with the most pixels comes first: the one to keep. The others could be dropped if they
    are as near to it as --threshold says.

    [bold]Examples[/bold]

      gtsa embed duplicates vectors/ --sheet duplicates.jpg

      gtsa embed duplicates vectors/ --threshold 0.98 --json
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"--threshold is above 0 and at most 1, got {threshold:g}")
    from gtsa_kit.embedding.browse.contact_sheet import check_sheet_name

    if sheet:
        check_sheet_name(sheet)
    data = _open(folder)
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.browse.duplicates import find_duplicates
    from gtsa_kit.export.runtime.load import pick_device

    shown = make_console()
    with Steps(shown) as steps:
        steps.begin("comparing, per cent", 100)
        found = find_duplicates(
            data, threshold, pick_device(device), lambda done, total: steps.update(100 * done // total)
        )
    show_duplicates(found, threshold, as_json)
    if sheet and found.groups:
        write_groups(data, found.groups, sheet)
        shown.print(f"wrote {sheet}", soft_wrap=True)


def _open(folder: Path) -> "Vectors":
    """The dataset; says so if it is not finished."""
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.embedding.browse.vectors import open_vectors

    data = open_vectors(require(folder))
    if not data.finished:
        make_console().print(
            f"{folder} is not finished: this looks at the {len(data)} rows that are there; gtsa embed with --resume "
            "makes the others",
            soft_wrap=True,
        )
    return data


def _embedded(data: "Vectors", image: Path, model: Path | None, device: str) -> Any:
    """(D,) vector of an image."""
    from gtsa_kit.data.image_io import open_image
    from gtsa_kit.embedding.browse.search import embed_query, open_model

    query = open_image(image)
    return embed_query(open_model(data, model, device), query, data.job.get("resize"))


def _search(data: "Vectors", query: Any, top: int, leave_out: int | None) -> "list[Hit]":
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.browse.search import search

    with Steps(make_console()) as steps:
        steps.begin("searching", len(data), unit="rows")
        return search(data, query, top, leave_out, steps.update)
