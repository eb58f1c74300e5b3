"""gtsa export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.parsing import (
    parse_batch,
    parse_capabilities,
    parse_color,
    parse_layers,
    parse_side,
    parse_sizes,
)

if TYPE_CHECKING:
    from gtsa_kit.export.source import ImportOptions
    from gtsa_kit.export.spec import ExportOptions

Sides = "N, or HEIGHTxWIDTH; multiples of 16."
ENGINES = "TensorRT (--format trt)"
TRITON = "NVIDIA Triton (--format triton)"


def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, weights (of ours, timm, Hugging Face, DINO, MoCo v3, the paper's authors), or an "
            "ONNX file exported before; for --format trt also anybody's ONNX file of a ViT.",
            metavar="SOURCE",
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, torchscript, pt2, openvino; all of these; trt (TensorRT, below); triton (a model repository, "
            "below); or a checkpoint for timm, hf, mmseg, mmdet, detectron2. auto: the fastest on this machine that "
            "holds parity.",
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8; onnx and trt: fp8; trt: tf32. Default: fp32; trt: fp16; auto: the fastest."
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help=f"Fix the input's size, which folds the positions. {Sides}")] = None,
    min_size: Annotated[str | None, typer.Option(help=f"Smallest input. {Sides}")] = None,
    max_size: Annotated[str | None, typer.Option(help=f"Largest input. {Sides} Default: no limit.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="N fixes it, MIN:MAX bounds it; for trt MIN:OPT:MAX. Default: any.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks whose maps are outputs too: 2,5,8,11.")] = None,
    opset: Annotated[int | None, typer.Option(help="Of ONNX: 18 to 23. Default: 20.")] = None,
    input_type: Annotated[
        str, typer.Option("--input", help="float32: normalized (B, 3, H, W). uint8: (B, H, W, 3), RGB as it is.")
    ] = "float32",
    calibrate: Annotated[Path | None, typer.Option(help="Typical images, for the ranges of int8 and fp8.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Images for the parity gate. Default: those that the run was trained on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or folder. Default: beside the weights, as encoder.onnx and so on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    branch: Annotated[str | None, typer.Option(help="teacher or student, of a foreign checkpoint with both.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads of a foreign checkpoint.")] = None,
    mean: Annotated[str | None, typer.Option(help="What foreign weights were trained with: 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    runtime: Annotated[
        str,
        typer.Option(
            help="tensorrt (builds on the GPU at hand, for it) or tensorrt-rtx (builds without a GPU). auto: tensorrt "
            "where it and a GPU are, else tensorrt-rtx.",
            rich_help_panel=ENGINES,
        ),
    ] = "auto",
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Compute capabilities that one engine is for: 8.6,8.9,12.0. Default: 8.0 and later.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    opt_size: Annotated[
        str | None,
        typer.Option(help=f"Usual input, which it is best at. {Sides} Default: 224.", rich_help_panel=ENGINES),
    ] = None,
    workspace: Annotated[
        float | None, typer.Option(help="GiB that one operation may take.", rich_help_panel=ENGINES)
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Of tensorrt: measurements kept between builds.", rich_help_panel=ENGINES)
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(help="0 to 5: how long it looks for fast kernels. Default: 3.", rich_help_panel=ENGINES),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Parse and build, name what is refused, keep nothing.", rich_help_panel=ENGINES),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the model. Default: encoder.", rich_help_panel=TRITON)] = None,
    instances: Annotated[
        str | None,
        typer.Option(help="N, gpu:N or cpu:N: copies on each device. Default: 1.", rich_help_panel=TRITON),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Images that requests are joined to; 0: never. Default: what the graph takes, or 16.",
            rich_help_panel=TRITON,
        ),
    ] = None,
    queue_delay_ms: Annotated[
        float | None,
        typer.Option(help="That a request waits for others. Default: 1.", rich_help_panel=TRITON),
    ] = None,
) -> None:
    """Write a file that other tools run, and prove that it computes what the encoder computes.

    One graph takes any batch and any height and width in steps of 16, unless --size or --batch fix them. The file is
    opened again and compared with the float32 encoder on images at many shapes; the report goes into FILE.json.
    Exits with 1 if it differs by more than its precision may.

    [bold]Examples[/bold]

      gtsa export runs/street

      gtsa export runs/street --format onnx --layers 2,5,8,11 --input uint8

      gtsa export runs/street --format openvino --precision int8 --calibrate photos/

      gtsa export dino_deitsmall16_pretrain.pth --format onnx --out deploy/

      gtsa export runs/street --format trt --batch 1:8:32 --max-size 640 --gpu 8.9,12.0

      gtsa export vit_of_others.onnx --format trt --dry-run

      gtsa export runs/street/encoder.onnx --format triton --input uint8 --out models/
    """
    require(source)
    if branch not in (None, "teacher", "student"):
        raise ValueError(f"--branch takes teacher or student, got {branch!r}")
    from gtsa_kit.export.spec import OPSET, ExportOptions

    form = _format(form, out)
    height, width = parse_sizes(size, min_size, max_size)
    allowed, opt_batch = parse_batch(batch)
    options = ExportOptions(
        precision=precision or ("fp16" if form == "trt" else "fp32"),  # type: ignore[arg-type]
        height=height,
        width=width,
        batch=allowed,
        layers=parse_layers(layers),
        opset=opset or OPSET,
        input=input_type,  # type: ignore[arg-type]
    )
    for_engines = {
        "--runtime": runtime != "auto",
        "--gpu": gpu,
        "--opt-size": opt_size,
        "--workspace": workspace is not None,
        "--timing-cache": timing_cache,
        "--optimization-level": optimization_level is not None,
        "--dry-run": dry_run,
        "--batch with three numbers": opt_batch,
    }
    if form != "trt" and (given := [name for name, there in for_engines.items() if there]):
        raise ValueError(f"{given[0]} is for engines; add --format trt, or leave it out")
    for_triton = {
        "--name": name,
        "--instances": instances,
        "--max-batch": max_batch,
        "--queue-delay-ms": queue_delay_ms,
    }
    if form != "triton" and (given := [option for option, value in for_triton.items() if value is not None]):
        raise ValueError(f"{given[0]} is for servers; add --format triton, or leave it out")
    colors = parse_color(mean, "--mean"), parse_color(std, "--std")
    from gtsa_kit.export.source import ImportOptions

    hints = ImportOptions(branch, heads, *colors)  # type: ignore[arg-type]
    if form == "triton":
        from gtsa_kit.cli.support.export_triton import export_triton, parse_serving

        serving = parse_serving(name, instances, max_batch, queue_delay_ms)
        export_triton(source, hints, serving, precision, options, calibrate, images, out, force)
        return
    if form != "trt":
        _dispatch(source, hints, form, precision, options, calibrate, images, out, force)
        return
    from gtsa_kit.cli.support.export_engine import EngineOptions, export_engine
    from gtsa_kit.export.runtime.profile import OptimalShape
    from gtsa_kit.export.tensorrt.build import BuildSettings

    engine_options = EngineOptions(
        runtime=runtime,
        precision=precision,
        options=options,
        optimal=OptimalShape(opt_batch, parse_side(opt_size, "--opt-size") if opt_size else None),
        gpus=parse_capabilities(gpu),
        settings=BuildSettings(workspace=workspace, timing_cache=timing_cache, level=optimization_level),
        calibrate=calibrate,
        images=images,
        out=out,
        force=force,
        dry_run=dry_run,
    )
    export_engine(source, hints, engine_options)


def _format(form: str, out: Path | None) -> str:
    """The format by name, or by the suffix of what is to be written."""
    from gtsa_kit.export.spec import FORMATS, FRAMEWORKS, SUFFIX

    by_suffix = {suffix: name for name, suffix in SUFFIX.items()}
    if form == "auto" and out and out.suffix in by_suffix:
        return by_suffix[out.suffix]
    known = ("auto", "all", *FORMATS, "triton", *FRAMEWORKS)
    if form not in known:
        raise ValueError(f"unknown format {form!r}; choose one of {', '.join(known)}")
    return form


def _dispatch(
    source: Path,
    hints: "ImportOptions",
    form: str,
    precision: str | None,
    options: "ExportOptions",
    calibrate: Path | None,
    images: Path | None,
    out: Path | None,
    force: bool,
) -> None:
    """Call what the format asks for."""
    from gtsa_kit.cli.support.export_steps import (
        all_formats,
        export_each,
        export_for_framework,
        export_the_fastest,
        open_source_with_note,
    )
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.pipeline import read_calibration
    from gtsa_kit.export.spec import FRAMEWORKS

    shown = make_console()
    opened = open_source_with_note(source, hints, shown)
    parity_set = load_parity_images(require(images) if images else opened.images)
    if form in FRAMEWORKS:
        return export_for_framework(opened, form, out or opened.folder / form, parity_set, force, shown)
    calibration = read_calibration(require(calibrate)) if calibrate else None
    if form == "auto":
        return export_the_fastest(
            opened, precision, options, parity_set, calibration, out or opened.folder, force, shown
        )
    forms = all_formats(options, shown) if form == "all" else [form]
    return export_each(opened, forms, options, parity_set, calibration, out, force, shown)
