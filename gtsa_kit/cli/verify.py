"""gtsa verify."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.common import fail, require


def verify(
    file: Annotated[Path, typer.Argument(help="An exported file: .onnx, .ts, .pt2, .xml.", metavar="FILE")],
    against: Annotated[
        Path | None,
        typer.Option(
            help="The run or weights that it came from. Default: encoder.safetensors beside it, if it is that; else "
            "the weights inside a float32 ONNX file.",
            metavar="SOURCE",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photographs. Default: those of the run, else a sample of matplotlib's.")
    ] = None,
    device: Annotated[str, typer.Option(help="What runs FILE: auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run the parity gate again, on this machine, on any photographs. Exits with 1 if it does not hold.

    [bold]Examples[/bold]

      gtsa verify deploy/encoder.onnx

      gtsa verify deploy/encoder.xml --against runs/street --images photos/ --json
    """
    require(file)
    from gtsa_kit.cli.exporting import counting
    from gtsa_kit.cli.parity import parity_table, verdict
    from gtsa_kit.cli.progress import Steps, console
    from gtsa_kit.export.parity import check_parity, parity_images
    from gtsa_kit.export.runtime import load
    from gtsa_kit.export.source import find_reference, open_source
    from gtsa_kit.export.spec import SUFFIX

    if file.suffix not in SUFFIX.values():
        raise ValueError(f"{file} is no exported file; those end in {', '.join(SUFFIX.values())}")
    runner = load(file, device)
    source = open_source(require(against)) if against else find_reference(file, runner.manifest)
    if source is None:
        raise ValueError(f"the weights that {file} came from are not beside it; name them with --against")
    shown = console()
    if source.sha256 != runner.manifest.source_sha256:
        shown.print(f"{source.path} holds other weights than {file} was made from, as their hashes say")
    photographs = parity_images(require(images) if images else source.photographs)
    with Steps(shown) as steps:
        report = check_parity(source.encoder, runner, photographs, counting(steps))
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        shown.print(parity_table(report))
    if not report.passed:
        fail(f"{verdict(file, report)}; export it again, or see what changed since", 1)
    shown.print(f"{file}: parity holds with {source.path}")
