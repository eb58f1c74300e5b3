"""gtsa export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.common import fail, require

if TYPE_CHECKING:
    from rich.table import Table

    from gtsa_kit.export.manifest import ParityReport


def export(
    source: Annotated[
        Path, typer.Argument(help="A run folder, its encoder.safetensors, or a file exported before.", metavar="SOURCE")
    ],
    form: Annotated[str, typer.Option("--format", help="onnx or torchscript.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File or folder. Default: beside the weights, as encoder.onnx or encoder.ts.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photographs for the parity gate. Default: those that the run was trained on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write one file that other tools run, and prove that it computes what the encoder computes.

    Batch, height and width stay dynamic (heights and widths in steps of 16). The file is opened again and compared
    with the float32 encoder on photographs at six shapes; the report goes into FILE.json. Exits 1 if it differs.

    [bold]Examples[/bold]

      gtsa export runs/street --format onnx

      gtsa export runs/street --format torchscript --out deploy/street.ts --images photos/
    """
    require(source)
    from gtsa_kit.cli.progress import Steps, console
    from gtsa_kit.export.pipeline import artifact_path, export_artifact
    from gtsa_kit.export.source import open_source
    from gtsa_kit.export.spec import CASES

    opened = open_source(source)
    path = artifact_path(opened, form, out, force)
    shown = console()
    shown.print(f"writing {path}")
    with Steps(shown) as steps:
        steps.begin("parity", len(CASES))
        manifest = export_artifact(opened, form, path, images, lambda done, _: steps.update(done))
    assert manifest.parity is not None
    shown.print(parity_table(manifest.parity))
    if not manifest.parity.passed:
        worst = manifest.parity.worst
        fail(
            f"{path} differs from the encoder: {worst.output} at {worst.batch} x {worst.height} x {worst.width}, "
            f"cosine {worst.min_cosine:.6f}, max {worst.max_abs:.2e}; do not use it, its report is in {path.name}.json",
            1,
        )
    shown.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB, parity holds; the manifest is {path.name}.json")


def parity_table(report: "ParityReport") -> "Table":
    """A row for each output and shape."""
    from rich.table import Table

    table = Table(title=f"parity on {report.images} ({report.runtime})", title_justify="left", box=None)
    for name in ("output", "shape", "max abs", "mean abs", "min cosine", "same nearest", ""):
        table.add_column(name, justify="left" if name in ("output", "") else "right", no_wrap=True)
    for d in report.differences:
        numbers = (f"{d.max_abs:.1e}", f"{d.mean_abs:.1e}", f"{d.min_cosine:.7f}")
        same = "" if d.neighbours is None else f"{d.neighbours:.4f}"
        shape = f"{d.batch} x {d.height} x {d.width}"
        table.add_row(d.output, shape, *numbers, same, "ok" if d.passed else "FAILED")
    return table
