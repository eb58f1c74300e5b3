"""`gtsa info`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.common import quick_imports
from gtsa_kit.cli.support.options import JsonOption, WeightsOptions, with_option_groups

if TYPE_CHECKING:
    from gtsa_kit.export.inspect_file import FileInfo


@with_option_groups
def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="Exported file or folder, run folder, weights of any supported tool, or an .onnx of any tool.",
            metavar="FILE",
        ),
    ],
    as_json: JsonOption = False,
    *,
    weights: WeightsOptions,
) -> None:
    """Print the kind, inputs, outputs and parity report of a file.

    The file is not run, so there is no --device, --provider, --size or --layers.

    [bold]Examples[/bold]

      gtsa info runs/street/encoder.onnx

      gtsa info other_model.onnx --json

      gtsa info dino_deitsmall16_pretrain.pth --heads 6
    """
    with quick_imports():
        from gtsa_kit.export.inspect_file import inspect_file

    facts = inspect_file(file, weights.import_options)
    if as_json:
        print(json.dumps(as_data(facts), indent=2))
        return
    from rich.table import Table

    from gtsa_kit.cli.support.info_rows import rows
    from gtsa_kit.cli.support.progress import make_result_console

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(facts):
        table.add_row(name, text)
    make_result_console().print(table)


def as_data(facts: "FileInfo") -> dict[str, Any]:
    """Return the facts for JSON."""
    from dataclasses import asdict

    graph = facts.graph
    return {
        "path": str(facts.path),
        "kind": facts.kind,
        "size": facts.size,
        "manifest": facts.manifest.model_dump(mode="json") if facts.manifest else None,
        "report_problem": facts.report_problem,
        "graph": asdict(graph)
        | {name: [spec.model_dump(mode="json") for spec in getattr(graph, name)] for name in ("inputs", "outputs")}
        if graph
        else None,
        "header": asdict(facts.header) if facts.header else None,
        "encoder": dict(facts.encoder) or None,
        "folder": facts.folder.model_dump(mode="json") if facts.folder else None,
        "note": facts.note,
    }
