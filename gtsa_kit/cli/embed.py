"""gtsa embed."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.common import fail, require
from gtsa_kit.cli.providers import EngineCacheOption, FallbackOption, ProviderOption, open_runner


def embed(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Photographs: a folder (searched below), or a text file with one path a line.", metavar="FOLDER"
        ),
    ],
    model: Annotated[Path, typer.Option(help="A run folder, a .safetensors, or an exported file.")],
    out: Annotated[Path, typer.Option(help="Folder for embeddings.parquet and errors.jsonl.", metavar="DIR")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photographs that the model takes at a time.")] = 32,
    provider: ProviderOption = "auto",
    engine_cache: EngineCacheOption = None,
    fallback: FallbackOption = False,
    on_error: Annotated[
        str, typer.Option(help="skip: list broken photographs and go on; fail: also exit with 1.")
    ] = "skip",
) -> None:
    """Turn photographs into vectors: one Parquet file, rows in natural order of the paths.

    Columns: path, width, height, embedding (fixed-size list of float32). Broken files are listed in errors.jsonl with
    the reason; every file is in one of the two.

    [bold]Examples[/bold]

      gtsa embed photos/ --model runs/street/encoder.onnx --out vectors/

      python -c "import pandas; print(pandas.read_parquet('vectors/embeddings.parquet'))"
    """
    if on_error not in ("skip", "fail"):
        raise ValueError(f"--on-error takes skip or fail, got {on_error!r}")
    from gtsa_kit.images import find_images

    found = find_images(require(folder))
    require(model)

    from gtsa_kit.cli.progress import Steps, console
    from gtsa_kit.embedding.folder import embed_folder

    shown = console()
    runner = open_runner(model, device, provider, engine_cache, fallback, shown)
    shown.print(f"{len(found.paths)} photographs, {runner.provider}")
    with Steps(shown) as steps:
        steps.begin("embedding", len(found.paths), unit="images")

        def done(count: int, broken: int) -> None:
            steps.update(count, f"{broken} broken" if broken else "")

        summary = embed_folder(found, runner, out, batch_size, on_done=done)
    shown.print(f"{summary.rows} rows in {summary.parquet}")
    if summary.broken:
        first = summary.broken[0]
        word = f"{len(summary.broken)} files could not be used, first {first}; all are in {summary.errors}"
        if on_error == "fail" or not summary.rows:
            fail(word, 1)
        shown.print(word)
