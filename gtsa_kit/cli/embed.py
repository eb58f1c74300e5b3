"""gtsa embed: images to vectors and dense maps, with the subcommands merge, search, map, duplicates and push."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.cli.embed_push import push_command
from gtsa_kit.cli.support.common import quick_imports, require
from gtsa_kit.cli.support.help import DefaultCommand, PlainCommand, PlainGroup
from gtsa_kit.cli.support.options import JsonOption, ModelOptions, with_option_groups
from gtsa_kit.cli.support.parsing import parse_auto

DEFAULT_COMMAND = "FOLDER"
"""Name of the command that runs if none is named. An argument of this name is a folder: the name is never looked up."""


class DefaultCommandGroup(PlainGroup):
    """Command group in which `gtsa embed photos/ ...` embeds and `gtsa embed merge ...` runs a subcommand.

    A folder with the name of a subcommand is written as `./merge`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless the first argument is a subcommand."""
        named = args and args[0] in self.commands and args[0] != DEFAULT_COMMAND
        return super().parse_args(ctx, args if named else [DEFAULT_COMMAND, *args])


app = typer.Typer(cls=DefaultCommandGroup, rich_markup_mode="rich", help="Turn images into vectors and dense maps.")
app.add_typer(browse_app)
app.command("push", cls=PlainCommand)(push_command)


@app.command(DEFAULT_COMMAND, cls=DefaultCommand, hidden=True)
@with_option_groups
def embed(
    folder: Annotated[
        str,
        typer.Argument(
            help="Images: a folder (searched recursively), a quoted glob, a text or Parquet list of paths, a .tar, a "
            ".zip, or a URL (s3://, gs://, hf://, http://).",
            metavar="FOLDER",
        ),
    ],
    model: Annotated[Path, typer.Option(help="A run folder, a .safetensors, or an exported file.")],
    out: Annotated[Path, typer.Option(help="Folder for vectors/, dense.zarr and errors.jsonl.", metavar="DIR")],
    dense: Annotated[bool, typer.Option("--dense", help="Also write the feature maps, as Zarr.")] = False,
    layers: Annotated[
        str | None, typer.Option(help="Also write the maps of these blocks, such as 2,5,8,11. Default: none.")
    ] = None,
    class_token: Annotated[
        bool, typer.Option("--class-token", help="Also write the class token after the final norm, as a column.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="Stretch to N or HEIGHTxWIDTH. Default: the model's size.")] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Keep the aspect ratio; the short side becomes N. Default: see --size.")
    ] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Keep each image's own size, rounded to whole patches.")
    ] = False,
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        typer.Option(help="Type of vectors and maps; by default float32 vectors and float16 maps.", show_default=False),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Run an int8 file of the model, made once beside its weights, if 256 of the images keep their "
            "neighbors with it (0.999 by cosine); else the model.",
        ),
    ] = False,
    batch_size: Annotated[str, typer.Option(help="Number of images in one call of the model, or auto.")] = "auto",
    workers: Annotated[str, typer.Option(help="Threads that read and decode, or auto.")] = "auto",
    frames: Annotated[
        Literal["first", "all"],
        typer.Option(
            help="Of files with several images, such as slices of a volume: embed the first, or all as PATH#1, PATH#2. "
            "For a model of --channels."
        ),
    ] = "first",
    on_error: Annotated[
        Literal["skip", "fail"],
        typer.Option(help="skip: list unreadable images in errors.jsonl; fail: stop at the first."),
    ] = "skip",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the job in DIR; where the images moved, FOLDER is their new place."),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this process. ray: all machines of a Ray cluster; without one, a local cluster."),
    ] = "local",
    shard: Annotated[
        str | None, typer.Option(help="Only the I-th of N parts: 1/8 to 8/8. Default: all images.", metavar="I/N")
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Larger images are rejected before they are decoded.")
    ] = 178.0,
    rows_per_shard: Annotated[
        int | None,
        typer.Option(min=1, help="Rows committed together; a kill loses at most these.", show_default="up to 64 MB"),
    ] = None,
    as_json: JsonOption = False,
    *,
    opening: ModelOptions,
) -> None:
    """Turn images into vectors, and into dense maps if requested, in natural order of the paths.

    DIR/vectors/ opens in pandas, polars, DuckDB, Hugging Face datasets and LanceDB: path, sha256, stamp, width, height,
    embedding. Every image becomes a row there or a line in DIR/errors.jsonl. If the command is killed at any time, the
    same command with --resume continues it, with the same result as without the interruption.

    Subcommands: [bold]gtsa embed merge[/bold], [bold]search[/bold], [bold]map[/bold], [bold]duplicates[/bold],
    [bold]push[/bold]. A folder of such a name is written as ./merge.

    [bold]Examples[/bold]

      gtsa embed photos/ --model runs/street/encoder.onnx --out features/

      gtsa embed photos/ --model runs/street --out maps/ --native --dense --layers 2,5,8,11

      gtsa embed s3://bucket/photos --model encoder.onnx --out part3/ --shard 3/8
    """
    from gtsa_kit.cli.support.parsing import parse_layers, parse_side

    require(model)
    parsed_batch_size = parse_auto(batch_size, "--batch-size")
    parsed_workers = parse_auto(workers, "--workers")
    part = parse_part(shard)
    parsed_size = parse_side(size, "--size") if size else None
    load_options = opening.load_options(parse_layers(layers), class_token)

    from gtsa_kit.embedding.options import EmbedOptions

    options = EmbedOptions(
        dense=dense,
        size=parsed_size,
        short_side=short_side,
        native=native,
        dtype=dtype,
        batch_size=parsed_batch_size,
        workers=parsed_workers,
        fail_on_unreadable=on_error == "fail",
        resume=resume,
        engine=engine,
        part=part,
        frames=frames,
        max_pixels=int(max_megapixels * 1e6),
        rows_per_shard=rows_per_shard,
        load=load_options,
    )
    embed_with_progress(folder, model, out, options, as_json, fast)


@app.command(cls=PlainCommand)
def merge(
    out: Annotated[Path, typer.Argument(help="New folder for the merged dataset.", metavar="DIR")],
    parts: Annotated[
        list[Path], typer.Argument(help="Folders that --shard 1/N to N/N wrote, in any order.", metavar="PART")
    ],
) -> None:
    """Merge the parts that --shard wrote: the rows, maps and errors of one run, in its order.

    [bold]Example[/bold]

      gtsa embed merge features/ part1/ part2/ part3/
    """
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.merge import merge_parts

    console = make_console()
    with Steps(console) as steps:
        steps.begin("merging", 0, unit="rows")

        def on_progress(done: int, total: int) -> None:
            steps.total = total
            steps.update(done)

        rows, errors = merge_parts(out, parts, on_progress)
    console.print(f"{rows} rows and {errors} errors in {out}")


def embed_with_progress(
    folder: str, model: Path, out: Path, options: Any, as_json: bool = False, fast: bool = False
) -> None:
    """Embed a folder with a progress bar; exit with 1 if no image could be embedded."""
    from gtsa_kit.data.image_files import check_source
    from gtsa_kit.embedding.folder import check_out

    check_out(out, options.resume)
    if not options.resume:
        check_source(folder, channels=True)  # which the model reads is known when it is open
    with quick_imports():
        from gtsa_kit.cli.support.job_display import run_job
        from gtsa_kit.cli.support.job_hints import embedding_hints, reduced_note
        from gtsa_kit.cli.support.opening import open_runner
        from gtsa_kit.cli.support.progress import make_console
        from gtsa_kit.embedding.run import embed_folder
        from gtsa_kit.embedding.torch_resize import has_torch

        has_torch()  # if it is installed, it is imported here: images are resized by it

    console = make_console()
    runner = open_runner(model, options.load, console)
    if fast:
        from gtsa_kit.cli.support.fast_model import open_fast

        model, runner, options = open_fast(folder, model, out, options, runner, console)
    if runner.preprocessing.is_rgb and (note := reduced_note(folder)):
        console.print(note, soft_wrap=True, markup=False)
    console.print(f"{runner.provider}; listing {folder}", soft_wrap=True)
    run_job(
        lambda on_progress: embed_folder(folder, model, out, options, on_progress, runner),
        *(out, "embedding", f"rows in {out / 'vectors'}", as_json, console, embedding_hints),
    )


def parse_part(text: str | None) -> tuple[int, int]:
    """Parse `I/N` to (I, N), counted from 1; None is the only part, (1, 1)."""
    if text is None:
        return 1, 1
    index, _, parts = text.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and 1 <= int(index) <= int(parts)):
        raise ValueError(f"--shard must be I/N, from 1/N to N/N, got {text!r}")
    return int(index), int(parts)
