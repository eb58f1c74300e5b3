"""gtsa embed: images to vectors and dense maps; `gtsa embed merge` and its like beside it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from gtsa_kit.cli.embed_browse import looking
from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.providers import EngineCacheOption, FallbackOption, ProviderOption

DEFAULT = "FOLDER"
"""Name of the command that runs when none is named; a folder can't be taken for it, since it is never looked up."""


class DefaultGroup(TyperGroup):
    """`gtsa embed photos/ ...` embeds; `gtsa embed merge ...` is another command.

    A folder that is called like a command is meant by `./merge`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What begins with no command's name is for the embedding itself."""
        named = args and args[0] in self.commands and args[0] != DEFAULT
        return super().parse_args(ctx, args if named else [DEFAULT, *args])


app = typer.Typer(cls=DefaultGroup, rich_markup_mode="rich", help="Turn images into vectors and dense maps.")
app.add_typer(looking)


@app.command(DEFAULT, hidden=True)
def embed(
    folder: Annotated[
        str,
        typer.Argument(
            help="Images: a folder (searched below), a quoted glob, a text or Parquet list of paths, a .tar, a "
            ".zip, or a URL (s3://, gs://, hf://, http://).",
            metavar="FOLDER",
        ),
    ],
    model: Annotated[Path, typer.Option(help="A run folder, a .safetensors, or an exported file.")],
    out: Annotated[Path, typer.Option(help="Folder for vectors/, dense.zarr and errors.jsonl.", metavar="DIR")],
    dense: Annotated[bool, typer.Option("--dense", help="Also write the feature maps, as Zarr.")] = False,
    layers: Annotated[str | None, typer.Option(help="Maps of these blocks too, like 2,5,8,11.")] = None,
    size: Annotated[str | None, typer.Option(help="Stretch to N or HEIGHTxWIDTH; by default the model's size.")] = None,
    short_side: Annotated[int | None, typer.Option(help="Keep the aspect; the short side becomes N.")] = None,
    native: Annotated[bool, typer.Option("--native", help="Each at its own size, to the nearest 16.")] = False,
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        typer.Option(help="Of everything; by default float32 vectors and float16 maps.", show_default=False),
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Images that the model takes at a time, or auto.")] = "auto",
    workers: Annotated[str, typer.Option(help="Threads that read and decode, or auto.")] = "auto",
    on_error: Annotated[
        Literal["skip", "fail"], typer.Option(help="skip: list broken files and go on; fail: end at the first.")
    ] = "skip",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in DIR.")] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on all machines of a Ray cluster, or one made for it here.")
    ] = "local",
    shard: Annotated[str | None, typer.Option(help="Only the I-th of N parts: 1/8 to 8/8.", metavar="I/N")] = None,
    sha256: Annotated[bool, typer.Option("--sha256", help="Also a digest of each file.")] = False,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Larger images are refused before they are decoded.")
    ] = 178.0,
    rows_per_shard: Annotated[
        int | None, typer.Option(min=1, help="What an interruption costs at most.", show_default="up to 64 MB")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    provider: ProviderOption = "auto",
    engine_cache: EngineCacheOption = None,
    fallback: FallbackOption = False,
) -> None:
    """Turn images into vectors, and into dense maps if asked: in natural order of the paths.

    DIR/vectors/ opens in pandas, polars, DuckDB, Hugging Face datasets and LanceDB: path, width, height, embedding.
    Every file becomes a row there or a line in DIR/errors.jsonl. Killed at any time, the same command with --resume
    goes on, and ends as if nothing had happened.

    Beside it: [bold]gtsa embed merge[/bold], [bold]search[/bold], [bold]map[/bold], [bold]duplicates[/bold]; a folder
    of such a name is meant by ./merge.

    [bold]Examples[/bold]

      gtsa embed photos/ --model runs/street/encoder.onnx --out features/

      gtsa embed photos/ --model runs/street --out maps/ --native --dense --layers 2,5,8,11

      gtsa embed s3://bucket/photos --model encoder.onnx --out part3/ --shard 3/8
    """
    from gtsa_kit.cli.support.parsing import parse_layers, parse_side

    require(model)
    batch = parse_auto(batch_size, "--batch-size")
    threads = parse_auto(workers, "--workers")
    part = parse_part(shard)
    side = parse_side(size, "--size") if size else None

    from gtsa_kit.embedding.job import Options

    options = Options(
        dense=dense,
        layers=parse_layers(layers),
        size=side,
        short_side=short_side,
        native=native,
        dtype=dtype,
        batch=batch,
        workers=threads,
        fail=on_error == "fail",
        resume=resume,
        engine=engine,
        part=part,
        digest=sha256,
        max_pixels=int(max_megapixels * 1e6),
        shard_rows=rows_per_shard,
        device=device,
        provider=provider,
        engine_cache=engine_cache,
        fallback=fallback,
    )
    run(folder, model, out, options)


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="New folder for the whole.")],
    parts: Annotated[list[Path], typer.Argument(help="What --shard 1/N to N/N wrote, in any order.")],
) -> None:
    """Put the parts that --shard wrote together: the rows, maps and errors of one run, in its order.

    [bold]Example[/bold]

      gtsa embed merge features/ part1/ part2/ part3/
    """
    from gtsa_kit.cli.support.progress import Steps, console
    from gtsa_kit.embedding.merge import merge_parts

    shown = console()
    with Steps(shown) as steps:
        steps.begin("merging", 0, unit="rows")

        def tell(done: int, total: int) -> None:
            steps.total = total
            steps.update(done)

        rows, errors = merge_parts(out, parts, tell)
    shown.print(f"{rows} rows and {errors} errors in {out}")


def run(folder: str, model: Path, out: Path, options: Any) -> None:
    """Embed with a display; exits with 1 if nothing could be embedded."""
    from gtsa_kit.cli.support.progress import Steps, console
    from gtsa_kit.cli.support.providers import fallbacks_shown
    from gtsa_kit.embedding.job import Progress, check_out, embed_folder
    from gtsa_kit.export import load

    check_out(out, options.resume)
    shown = console()
    with fallbacks_shown(shown):
        runner = load(model, **options.opening)
    shown.print(f"{runner.provider}; listing {folder}", soft_wrap=True)
    with Steps(shown) as steps:

        def tell(progress: Progress) -> None:
            if steps.stage != "embedding":
                steps.begin("embedding", progress.total, progress.done, unit="images")
            steps.update(progress.done, f"{progress.errors} errors" if progress.errors else "")

        try:
            summary = embed_folder(folder, model, out, options, tell, runner)
        except KeyboardInterrupt:  # typer would end without a word
            fail(f"interrupted: {out} keeps what is done; go on with --resume", 130)
        rate = steps.rate
    before = summary.total - summary.fresh
    shown.print(
        f"{summary.rows} rows in {out / 'vectors'}"
        + (f", {summary.errors} files could not be used: {out / 'errors.jsonl'}" if summary.errors else "")
        + (f"; {before} of {summary.total} were there before" if before else "")
        + (f"; {rate:.1f} images/s" if summary.fresh else ""),
        soft_wrap=True,
    )
    if not summary.rows and summary.errors:
        fail(f"none of the {summary.total} files could be used; the reasons are in {out / 'errors.jsonl'}", 1)


def parse_auto(text: str, option: str) -> int | None:
    """A count, or None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{option} takes a number or auto, got {text!r}")
    return int(text)


def parse_part(text: str | None) -> tuple[int, int]:
    """`I/N`, counted from 1."""
    if text is None:
        return 1, 1
    index, _, parts = text.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and 1 <= int(index) <= int(parts)):
        raise ValueError(f"--shard takes I/N, from 1/N to N/N, got {text!r}")
    return int(index), int(parts)
