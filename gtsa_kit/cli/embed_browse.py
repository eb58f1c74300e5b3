"""gtsa embed search, map and duplicates: browsing a dataset folder."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.browse_display import (
    advise,
    check_sheet_outside,
    choose_sheet,
    describe_invalid,
    open_with_note,
    print_duplicates,
    print_hits,
    print_note,
    write_duplicates_sheet,
    write_hits_sheet,
)
from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.help import PlainCommand
from gtsa_kit.cli.support.options import DeviceOption, JsonOption, ModelOptions, with_option_groups

if TYPE_CHECKING:
    import torch

    from gtsa_kit.embedding.browse.search import SearchResult
    from gtsa_kit.embedding.browse.vectors import VectorTable

browse_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

ShowOption = Annotated[
    str | None,
    typer.Option(
        help="Channels that pictures show, counted from 1: three as red, green, blue (4,3,2), or one as gray. Default: "
        "the first three. Not for 8-bit RGB.",
        metavar="CHANNELS",
    ),
]
DatasetFolder = Annotated[Path, typer.Argument(help="Folder that gtsa embed wrote (its --out).", metavar="DIR")]


@browse_app.command("search", cls=PlainCommand)
@with_option_groups
def search_command(
    folder: DatasetFolder,
    image: Annotated[
        Path | None, typer.Option(help="Query: any image. Default: none; --row is the query.", metavar="FILE")
    ] = None,
    row: Annotated[
        str | None,
        typer.Option(
            help="Query: a row of the dataset, by its `path`. Default: none; --image is the query.", metavar="PATH"
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
    model: Annotated[
        Path | None, typer.Option(help="Model of the vectors. Default: the path where it was used.")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="Contact sheet: .png, .jpg, .svg or .pdf. Default DIR/search.jpg.", metavar="FILE"),
    ] = None,
    show: ShowOption = None,
    as_json: JsonOption = False,
    *,
    opening: ModelOptions,
) -> None:
    """Find the images that are most similar to one, by exact cosine, best first.

    Prints rank, cosine and path, and writes a contact sheet with the query first. An --image is embedded as the rows
    were, also with their --heads, --mean, --std and --branch, at their --size; --layers play no part.

    [bold]Examples[/bold]

      gtsa embed search vectors/ --image beach.jpg --top 20

      gtsa embed search vectors/ --row 2019/img10.jpg --json
    """
    if (image is None) == (row is None):
        raise ValueError("give either --image FILE or --row PATH")
    path, no_sheet = choose_sheet(contact_sheet, folder / "search.jpg")
    data = open_with_note(folder)
    check_sheet_outside(path, data)
    from gtsa_kit.embedding.browse.thumbnails import SourceImages

    images = SourceImages.of(data, show)
    if image is not None:
        query_row, name, vector = None, str(image), _embed_image(data, require(image), model, opening)
    else:
        query_row = data.find(str(row))
        name, vector = query_row.path, data.vectors([query_row.index])[0]
    result = _search(data, vector, top, None if query_row is None else query_row.index)
    print_hits(result.hits, images.states(hit.row for hit in result.hits), name, as_json)
    print_note(describe_invalid(result.invalid))
    print_note(no_sheet)
    if path:
        write_hits_sheet(images, result.hits, query_row or Path(name), name, path)


@browse_app.command("map", cls=PlainCommand)
def map_command(
    folder: DatasetFolder,
    out: Annotated[Path | None, typer.Option(help="Page to write. Default DIR/map.html.", metavar="FILE")] = None,
    layout: Annotated[
        str,
        typer.Option(help="pca: fast, any size. tsne: shows clusters better, needs scikit-learn, up to 5,000 points."),
    ] = "pca",
    points: Annotated[int, typer.Option(min=1, help="Maximum number of points, evenly sampled.")] = 100_000,
    thumbnails: Annotated[
        int, typer.Option(min=0, help="Thumbnails inside the file, 5 KB each; other images are relative links.")
    ] = 2_000,
    show: ShowOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Draw the dataset as a map in one HTML file: a projection in which similar images are close to each other.

    The page opens offline. Point at an image to see it, its path and its nearest neighbors.

    [bold]Examples[/bold]

      gtsa embed map vectors/

      gtsa embed map vectors/ --layout tsne --points 5000 --out map.html
    """
    data = open_with_note(folder)
    out = out or folder / "map.html"
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.browse.projection import make_projection
    from gtsa_kit.embedding.browse.projection_page import write_projection_page
    from gtsa_kit.embedding.browse.thumbnails import SourceImages, describe_problems

    console, images = make_console(), SourceImages.of(data, show)
    with Steps(console) as steps:
        steps.begin("finding neighbors", min(points, len(data)), unit="images")
        projection = make_projection(
            data, layout, points, _device_of_products(device), lambda done, _: steps.update(done)
        )
        steps.begin("making thumbnails", min(thumbnails, len(projection.rows)), unit="images")
        title = f"Map of {Path(data.sources[0] if data.sources else folder.absolute()).name}"
        problems = write_projection_page(projection, images, out, title, thumbnails, lambda done, _: steps.update(done))
    print_note(describe_problems(problems, len(projection.rows)))
    print_note(describe_invalid(projection.invalid))
    if len(projection.rows) + len(projection.invalid) < projection.total:
        console.print(
            f"{len(projection.rows)} of {projection.total} rows are drawn, evenly sampled; --points sets their number"
        )
    console.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB", soft_wrap=True)


@browse_app.command("duplicates", cls=PlainCommand)
def duplicates_command(
    folder: DatasetFolder,
    threshold: Annotated[
        float,
        typer.Option(help="Minimum cosine of near-duplicates, above 0, up to 1. The best value depends on the model."),
    ] = 0.995,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="Contact sheet to write: .png, .jpg, .svg or .pdf. Default: none.", metavar="FILE"),
    ] = None,
    show: ShowOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """List groups of images that are nearly the same. Nothing is deleted.

    In a group, the cosine of every pair reaches --threshold. The first image has the most pixels: it is the one to
    keep, and the others can be dropped.

    [bold]Examples[/bold]

      gtsa embed duplicates vectors/ --contact-sheet duplicates.jpg

      gtsa embed duplicates vectors/ --threshold 0.98 --json
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"--threshold must be above 0 and at most 1, got {threshold:g}")
    choose_sheet(contact_sheet)
    data = open_with_note(folder)
    check_sheet_outside(contact_sheet, data)
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.browse.duplicates import find_duplicates
    from gtsa_kit.embedding.browse.thumbnails import SourceImages

    console, images = make_console(), SourceImages.of(data, show)
    with Steps(console) as steps:
        steps.begin("comparing, percent", 100)
        duplicates = find_duplicates(
            data, threshold, _device_of_products(device), lambda done, total: steps.update(100 * done // total)
        )
    states = iter(images.states(member.row for group in duplicates.groups for member in group))
    groups = [advise(group, [next(states) for _ in group]) for group in duplicates.groups]
    print_duplicates(groups, duplicates.invalid, threshold, as_json)
    print_note(describe_invalid(duplicates.invalid))
    if contact_sheet and groups:
        write_duplicates_sheet(images, groups, contact_sheet)


def _device_of_products(device: str) -> "torch.device | None":
    """Return torch's device; None, for numpy, where torch is not installed and the device may be the CPU."""
    from gtsa_kit.export.runtime.load import pick_device

    if device not in ("auto", "cpu"):
        return pick_device(device)
    with suppress(ModuleNotFoundError):
        return pick_device(device)
    return None


def _embed_image(data: "VectorTable", image: Path, model: Path | None, opening: ModelOptions) -> Any:
    """Return the vector (D,) of an image."""
    from gtsa_kit.cli.support.opening import open_runner
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.embedding.browse.search import embed_query, model_options, open_model
    from gtsa_kit.models.channel_images import read_input
    from gtsa_kit.models.preprocessing import Preprocessing

    query = read_input(image, Preprocessing.from_dict(data.manifest.preprocessing))
    console, options = make_console(), opening.load_options()
    runner = open_model(data, model, lambda path: open_runner(path, model_options(data, path, options), console))
    return embed_query(runner, query, data.job.get("resize"))


def _search(data: "VectorTable", query: Any, top: int, exclude: int | None) -> "SearchResult":
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.browse.search import search

    with Steps(make_console()) as steps:
        steps.begin("searching", len(data), unit="rows")
        return search(data, query, top, exclude, steps.update)
