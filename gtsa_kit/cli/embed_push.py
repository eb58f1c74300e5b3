"""gtsa embed push: the vectors of a dataset folder to a store that searches them."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.browse_display import describe_invalid, open_with_note, print_note
from gtsa_kit.cli.support.common import fail
from gtsa_kit.cli.support.options import JsonOption
from gtsa_kit.embedding.push import StoreKind

if TYPE_CHECKING:
    from gtsa_kit.embedding.push.push import PushSummary

URL_SCHEMES = {
    "pgvector": ("postgresql", "postgres"),
    "qdrant": ("http", "https"),
    "lancedb": ("s3", "gs", "az", "db"),
    "faiss": (),
}
"""Schemes of URLs by store."""

TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}(\.[A-Za-z_][A-Za-z0-9_-]{0,62})?")


def push_command(
    dataset: Annotated[Path, typer.Argument(help="Folder that gtsa embed wrote (its --out).", metavar="DATASET")],
    to: Annotated[StoreKind, typer.Option(help="Kind of the store.")],
    path: Annotated[
        Path | None,
        typer.Option(
            help="Folder of LanceDB or Qdrant's local mode, or index file of faiss. Default: none; --url tells where."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="postgresql://USER@HOST/DATABASE, http://HOST:6333 of Qdrant, or s3://, gs://, az://, db:// of "
            "LanceDB. Default: none; --path tells where."
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Table or collection; created if it is missing. Default: images.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Name of the images' source, a part of the ids. Default: where they were embedded."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Push the vectors to LanceDB, Qdrant, PostgreSQL with pgvector, or a faiss index.

    The vectors are divided by their norms, so that inner products are cosines. Rows that the table holds already are
    not written again, and changed ones are replaced: the same command adds new rows, and continues after an
    interruption. A table belongs to one model.

    Passwords need not be part of the URL: PGPASSWORD, ~/.pgpass and QDRANT_API_KEY are read.

    [bold]Examples[/bold]

      gtsa embed push vectors/ --to lancedb --path db/

      gtsa embed push vectors/ --to qdrant --url http://localhost:6333 --table street

      gtsa embed push vectors/ --to pgvector --url postgresql://me@localhost/images

      gtsa embed push vectors/ --to faiss --path images.faiss
    """
    where, table = parse_where(to, path, url), parse_table(to, table)
    data = open_with_note(dataset)
    from gtsa_kit.cli.support.progress import Steps, make_console
    from gtsa_kit.embedding.push.address import display_address
    from gtsa_kit.embedding.push.push import push

    displayed, console = display_address(where), make_console()
    with Steps(console) as steps:
        steps.begin("pushing", len(data), unit="rows")
        try:
            summary = push(data, to, where, table, source, lambda done, _: steps.update(done))
        except KeyboardInterrupt:
            fail(f"interrupted: {displayed} keeps what was written; run the command again to continue", 130)
        rate = steps.rate
    if as_json:
        print_json(summary, to, displayed, table, rate)
    print_note(describe_invalid(summary.invalid))
    console.print(
        f"{describe_summary(summary)} in {displayed}{'' if to == 'faiss' else f', {table}'}; {rate:.0f} rows/s",
        soft_wrap=True,
    )


def parse_where(to: str, path: Path | None, url: str | None) -> str:
    """Return the one address of --path and --url, which the store must be able to open.

    Raises:
        ValueError: There is none, there are two, or it is of another kind. The message does not contain the URL.
    """
    schemes = URL_SCHEMES[to]
    if (path is None) == (url is None):
        raise ValueError("give either --path or --url")
    if url is None:
        if to == "pgvector":
            raise ValueError("--to pgvector takes --url postgresql://USER@HOST/DATABASE")
        return str(path)
    if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        kinds = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"--to {to} takes {f'a --url that begins with {kinds}' if kinds else '--path FILE'}")
    return url


def parse_table(to: str, table: str | None) -> str:
    """Return the name of the table, by default images."""
    if to == "faiss" and table is not None:
        raise ValueError("--to faiss takes no --table; an index file is one table")
    if table is not None and not TABLE_NAME.fullmatch(table):
        raise ValueError(f"--table {table!r} is no name; use letters, digits, _ and -, at most 63, and a letter first")
    if table is not None and "." in table and to != "pgvector":
        raise ValueError(f"--table {table!r} has a schema, which only pgvector has")
    return table or "images"


def describe_summary(summary: "PushSummary") -> str:
    """Return the numbers of rows that were added, replaced and unchanged."""
    return f"{summary.added} rows added, {summary.replaced} replaced, {summary.unchanged} unchanged"


def print_json(summary: "PushSummary", to: str, where: str, table: str, rate: float) -> None:
    """Print the result on standard output."""
    content = {
        "to": to,
        "where": where,
        "table": None if to == "faiss" else table,
        "added": summary.added,
        "replaced": summary.replaced,
        "unchanged": summary.unchanged,
        "invalid_vectors": [row.path for row in summary.invalid],
        "rows_per_second": rate,
    }
    print(json.dumps(content, indent=2))
