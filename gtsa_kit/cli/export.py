"""`gtsa export`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.export_result import printed_result
from gtsa_kit.cli.support.options import ClassTokenOption, JsonOption, LayersOption, WeightsOptions, with_option_groups
from gtsa_kit.cli.support.parsing import (
    parse_batch,
    parse_capabilities,
    parse_heads,
    parse_layers,
    parse_layout,
    parse_side,
    parse_sizes,
)
from gtsa_kit.cli.support.task_options import TaskExportOptions

SIDES = "N, or HEIGHTxWIDTH; multiples of the patch size, 16 for the encoders of gtsa-kit."
ENGINES = "TensorRT (--format trt)"
TRITON = "NVIDIA Triton (--format triton)"


@with_option_groups
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="Run folder, weights (gtsa-kit, timm, Hugging Face, DINO, MoCo v3, the paper's authors), or "
            "float32 ONNX file of gtsa-kit; for --format trt also the ONNX file of another tool.",
            metavar="SOURCE",
        ),
    ],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, torchscript, pt2, openvino; all: all of these; trt: a TensorRT engine; triton: a model "
            "repository; timm, hf, mmseg, mmdet, detectron2: a checkpoint of that framework; auto: the fastest format "
            "on this machine that passes the parity gate.",
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8; fp8 for onnx and trt; tf32 for trt. Default: fp32; trt: fp16; auto: the half "
            "precision that the hardware computes in, else fp32."
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help=f"Fix the input size. {SIDES} Default: any size.")] = None,
    min_size: Annotated[str | None, typer.Option(help=f"Minimum input size. {SIDES} Default: one patch.")] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            help=f"Maximum input size. {SIDES} Default: no limit; trt: 512, or the training size if that is larger."
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch size: N fixes it, MIN:MAX bounds it; for trt also MIN:OPT:MAX. Default: any; trt: 1:8:16."
        ),
    ] = None,
    layers: LayersOption = None,
    class_token: ClassTokenOption = False,
    opset: Annotated[int | None, typer.Option(help="Opset of ONNX, 18 to 23. Default: 20.")] = None,
    input_type: Annotated[
        str,
        typer.Option(
            "--input", help="float32: normalized (B, 3, H, W). uint8: RGB (B, H, W, 3), normalized in the graph."
        ),
    ] = "float32",
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of typical images for the ranges of int8 and fp8. Default: none.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images for the parity gate. Default: the training images, else a sample image of "
            "matplotlib."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output file or folder. Default: beside the weights, as encoder.onnx and so on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
    runtime: Annotated[
        str,
        typer.Option(
            help="tensorrt (builds for the GPU of this machine) or tensorrt-rtx (builds without a GPU). auto: tensorrt "
            "if it and a GPU are available, else tensorrt-rtx.",
            rich_help_panel=ENGINES,
        ),
    ] = "auto",
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Compute capabilities that the engine runs on: 8.6,8.9,12.0. Default: for tensorrt-rtx all that it "
            "supports from 8.0 (fp8: 8.9), for tensorrt that of this machine.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    opt_size: Annotated[
        str | None,
        typer.Option(
            help=f"Input size that the engine is optimized for. {SIDES} Default: the training size, such as 224.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    workspace: Annotated[
        float | None,
        typer.Option(help="Maximum GPU workspace of one layer, in GiB. Default: no limit.", rich_help_panel=ENGINES),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            help="File with kernel timings, kept between builds; tensorrt only. Default: none.", rich_help_panel=ENGINES
        ),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(help="0 to 5: effort of the search for fast kernels. Default: 3.", rich_help_panel=ENGINES),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="nchw or nhwc: layout of the images of another tool's ONNX file, where its shape allows both. "
            "Default: read from the shape.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Parse and build, list the rejected nodes, write nothing.", rich_help_panel=ENGINES
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model. Default: encoder, of a fine-tuned run model.", rich_help_panel=TRITON),
    ] = None,
    instances: Annotated[
        str | None,
        typer.Option(help="N, gpu:N or cpu:N: instances on each device. Default: 1.", rich_help_panel=TRITON),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Maximum batch size of dynamic batching; 0 disables it. Default: that of the graph, or 16.",
            rich_help_panel=TRITON,
        ),
    ] = None,
    queue_delay_ms: Annotated[
        float | None,
        typer.Option(help="Maximum time that a request waits for others, in ms. Default: 1.", rich_help_panel=TRITON),
    ] = None,
    *,
    task: TaskExportOptions,
    weights: WeightsOptions,
) -> None:
    """Export an encoder or a fine-tuned model to ONNX, TensorRT or another format, and compare the file with it.

    The graph takes any batch size, and any height and width in steps of the patch size, unless --size or --batch fix
    them. The written file is opened again and compared with the float32 encoder on images of several shapes; the report
    is in FILE.json. Exits with 1 if the difference is above the tolerance of the precision. The comparison runs on the
    CPU; gtsa verify has --device and --provider for other hardware.

    [bold]Examples[/bold]

      gtsa export runs/street

      gtsa export runs/street --format onnx --layers 2,5,8,11 --input uint8

      gtsa export runs/street --format openvino --precision int8 --calibrate photos/

      gtsa export dino_deitsmall16_pretrain.pth --format onnx --out deploy/

      gtsa export runs/street --format trt --batch 1:8:32 --max-size 640 --gpu 8.9,12.0

      gtsa export other_vit.onnx --format trt --dry-run

      gtsa export runs/street/encoder.onnx --format triton --input uint8 --out models/

      gtsa export runs/road-segmentation --format onnx --precision fp16 --output mask

      gtsa export runs/road-segmentation --format onnx --part head

      gtsa export runs/street/encoder.onnx --format triton --head road=runs/road --head defects=runs/defects
    """
    require(source)
    import_options = weights.import_options
    from gtsa_kit.export.spec import OPSET, ExportOptions

    format_name = _resolve_format(format_name, out)
    height, width = parse_sizes(size, min_size, max_size)
    batch_range, opt_batch = parse_batch(batch)
    options = ExportOptions(
        precision=precision or ("fp16" if format_name == "trt" else "fp32"),  # type: ignore[arg-type]
        height=height,
        width=width,
        batch=batch_range,
        layers=parse_layers(layers),
        class_token=class_token,
        opset=opset or OPSET,
        input=input_type,  # type: ignore[arg-type]
        output=task.output or "features",  # type: ignore[arg-type]
        keep_float=task.kept_layers,
    )
    engine_only = {
        "--runtime": runtime if runtime != "auto" else None,
        "--gpu": gpu,
        "--opt-size": opt_size,
        "--workspace": workspace,
        "--timing-cache": timing_cache,
        "--optimization-level": optimization_level,
        "--layout": layout,
        "--dry-run": dry_run or None,
        "--batch with three numbers": opt_batch,
    }
    triton_only = {
        "--name": name,
        "--head": task.head,
        "--instances": instances,
        "--max-batch": max_batch,
        "--queue-delay-ms": queue_delay_ms,
    }
    _check_unused(engine_only, format_name, "trt")
    _check_unused(triton_only, format_name, "triton")
    if task.part != "model":
        from gtsa_kit.cli.support.export_head import export_head

        with printed_result(as_json) as result:
            export_head(source, format_name, task, options, images, out, force, result)
    elif format_name == "triton":
        from gtsa_kit.cli.support.export_triton import export_triton, parse_serving
        from gtsa_kit.models.task_model import is_task_run

        heads = dict(parse_heads(task.head or []))
        serving = parse_serving(
            name or ("model" if heads or is_task_run(source) else None), instances, max_batch, queue_delay_ms
        )
        with printed_result(as_json) as result:
            export_triton(
                source, import_options, serving, precision, options, calibrate, images, out, force, result, task, heads
            )
    elif format_name == "trt":
        from gtsa_kit.cli.support.engine_request import EngineOptions
        from gtsa_kit.cli.support.export_engine import export_engine
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
            layout=parse_layout(layout),
        )
        with printed_result(as_json) as result:
            export_engine(source, import_options, engine_options, result, task)
    else:
        from gtsa_kit.cli.support.export_steps import FileOptions, export_files

        files = FileOptions(precision, options, calibrate, images, out, force, task)
        with printed_result(as_json) as result:
            export_files(source, import_options, format_name, files, result)


def _check_unused(values: Mapping[str, object], format_name: str, needed: str) -> None:
    """Raise `ValueError` if an option of one format is given with another format."""
    given = [option for option, value in values.items() if value is not None]
    if given and format_name != needed:
        raise ValueError(f"{given[0]} needs --format {needed}; add it, or omit {given[0]}")


def _resolve_format(format_name: str, out: Path | None) -> str:
    """Return the format by name, or by the suffix of the output file for "auto".

    Raises:
        ValueError: The format is unknown.
    """
    from gtsa_kit.export.spec import FORMATS, FRAMEWORKS, SUFFIX

    by_suffix = {suffix: name for name, suffix in SUFFIX.items()}
    if format_name == "auto" and out and out.suffix in by_suffix:
        return by_suffix[out.suffix]
    names = ("auto", "all", *FORMATS, "triton", *FRAMEWORKS)
    if format_name not in names:
        raise ValueError(f"unknown format {format_name!r}; choose one of {', '.join(names)}")
    return format_name
