"""gtsa export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.common import require
from gtsa_kit.cli.parsing import parse_colour, parse_layers, parse_range, parse_sizes

if TYPE_CHECKING:
    from rich.console import Console

    from gtsa_kit.export.source import Source
    from gtsa_kit.export.spec import Options

Sides = "N, or HEIGHTxWIDTH; multiples of 16."


def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, weights (of ours, timm, Hugging Face, DINO, MoCo v3, the paper's authors), or an "
            "ONNX file exported before.",
            metavar="SOURCE",
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, torchscript, pt2, openvino; all of these; or a checkpoint for timm, hf, mmseg, mmdet, "
            "detectron2. auto: the fastest on this machine that holds parity.",
        ),
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16 or int8. Default: fp32; for auto, what is fastest.")
    ] = None,
    size: Annotated[str | None, typer.Option(help=f"Fix the input's size, which folds the positions. {Sides}")] = None,
    min_size: Annotated[str | None, typer.Option(help=f"Smallest input. {Sides}")] = None,
    max_size: Annotated[str | None, typer.Option(help=f"Largest input. {Sides} Default: no limit.")] = None,
    batch: Annotated[str | None, typer.Option(help="N fixes it, MIN:MAX bounds it. Default: any.")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks whose maps are outputs too: 2,5,8,11.")] = None,
    opset: Annotated[int | None, typer.Option(help="Of ONNX: 18 to 23. Default: 20.")] = None,
    input_type: Annotated[
        str, typer.Option("--input", help="float32: normalised (B, 3, H, W). uint8: (B, H, W, 3), RGB as it is.")
    ] = "float32",
    calibrate: Annotated[Path | None, typer.Option(help="Typical photographs, for int8's ranges.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photographs for the parity gate. Default: those that the run was trained on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or folder. Default: beside the weights, as encoder.onnx and so on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    branch: Annotated[str | None, typer.Option(help="teacher or student, of a foreign checkpoint with both.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads of a foreign checkpoint.")] = None,
    mean: Annotated[str | None, typer.Option(help="What foreign weights were trained with: 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
) -> None:
    """Write a file that other tools run, and prove that it computes what the encoder computes.

    One graph takes any batch and any height and width in steps of 16, unless --size or --batch fix them. The file is
    opened again and compared with the float32 encoder on photographs at many shapes; the report goes into FILE.json.
    Exits with 1 if it differs by more than its precision may.

    [bold]Examples[/bold]

      gtsa export runs/street

      gtsa export runs/street --format onnx --layers 2,5,8,11 --input uint8

      gtsa export runs/street --format openvino --precision int8 --calibrate photos/

      gtsa export dino_deitsmall16_pretrain.pth --format onnx --out deploy/
    """
    require(source)
    if branch not in (None, "teacher", "student"):
        raise ValueError(f"--branch takes teacher or student, got {branch!r}")
    from gtsa_kit.export.spec import ANY_BATCH, OPSET, Options

    height, width = parse_sizes(size, min_size, max_size)
    options = Options(
        precision=precision or "fp32",  # type: ignore[arg-type]
        height=height,
        width=width,
        batch=parse_range(batch, "--batch") if batch else ANY_BATCH,
        layers=parse_layers(layers),
        opset=opset or OPSET,
        input=input_type,  # type: ignore[arg-type]
    )
    colours = parse_colour(mean, "--mean"), parse_colour(std, "--std")
    from gtsa_kit.cli.progress import console
    from gtsa_kit.export.source import Hints, open_source

    hints = Hints(branch, heads, *colours)  # type: ignore[arg-type]
    opened = open_source(source, hints)
    shown = console()
    if opened.note:
        shown.print(opened.note, soft_wrap=True)
    _dispatch(opened, form, precision, options, calibrate, images, out, force, shown)


def _dispatch(
    opened: "Source",
    form: str,
    precision: str | None,
    options: "Options",
    calibrate: Path | None,
    images: Path | None,
    out: Path | None,
    force: bool,
    shown: "Console",
) -> None:
    """Call what the format asks for."""
    from gtsa_kit.cli.exporting import all_formats, export_each, export_for_framework, export_the_fastest
    from gtsa_kit.export.frameworks import FRAMEWORKS
    from gtsa_kit.export.parity import parity_images
    from gtsa_kit.export.pipeline import read_calibration
    from gtsa_kit.export.spec import FORMATS, SUFFIX

    by_suffix = {suffix: name for name, suffix in SUFFIX.items()}
    if form == "auto" and out and out.suffix in by_suffix:
        form = by_suffix[out.suffix]
    known = ("auto", "all", *FORMATS, *FRAMEWORKS)
    if form not in known:
        raise ValueError(f"unknown format {form!r}; choose one of {', '.join(known)}")
    photographs = parity_images(require(images) if images else opened.photographs)
    if form in FRAMEWORKS:
        return export_for_framework(opened, form, out or opened.folder / form, photographs, force, shown)
    calibration = read_calibration(require(calibrate)) if calibrate else None
    if form == "auto":
        return export_the_fastest(
            opened, precision, options, photographs, calibration, out or opened.folder, force, shown
        )
    forms = all_formats(options, shown) if form == "all" else [form]
    return export_each(opened, forms, options, photographs, calibration, out, force, shown)
