"""`gtsa export`."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import quick_imports, require
from gtsa_kit.cli.support.export_options import (
    SIDES,
    EngineExportOptions,
    TritonExportOptions,
    check_unused,
    refuse_option,
    resolve_format,
)
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
            "--input",
            help="Images that the graph takes. float32: normalized (B, N, H, W). uint8 (RGB and others of 8 bits), "
            "uint16: samples as the files have them, (B, H, W, N), clipped and normalized in the graph. "
            "float32-samples: the samples of any file as float32, also for trt, which has no uint16.",
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
    card: Annotated[
        bool,
        typer.Option(
            "--card",
            help="Write a model card and a bill of materials beside the artifact: FILE.card.md and FILE.cdx.json, in a "
            "folder README.md and gtsa.cdx.json.",
        ),
    ] = False,
    as_json: JsonOption = False,
    *,
    engine: EngineExportOptions,
    triton: TritonExportOptions,
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

      gtsa export runs/street --format onnx --card

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

    format_name = resolve_format(format_name, out)
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
    check_unused(engine, format_name, "trt")
    check_unused(triton, format_name, "triton")
    if opt_batch is not None and format_name != "trt":
        refuse_option("--batch with three numbers", "trt")
    if task.head and format_name != "triton":
        refuse_option("--head", "triton")
    if card:
        from gtsa_kit.cli.support.export_card import check_card, write_cards_of

        check_card(source, format_name, out, force, engine.dry_run)
    with printed_result(as_json) as result:
        if task.part != "model":
            from gtsa_kit.cli.support.export_head import export_head

            export_head(source, format_name, task, options, images, out, force, result)
        elif format_name == "triton":
            from gtsa_kit.cli.support.export_triton import export_triton, parse_serving
            from gtsa_kit.models.run_folder import is_task_run

            heads = dict(parse_heads(task.head or []))
            serving = parse_serving(
                triton.name or ("model" if heads or is_task_run(source) else None),
                triton.instances,
                triton.max_batch,
                triton.queue_delay_ms,
            )
            export_triton(
                source, import_options, serving, precision, options, calibrate, images, out, force, result, task, heads
            )
        elif format_name == "trt":
            from gtsa_kit.cli.support.engine_request import EngineOptions
            from gtsa_kit.cli.support.export_engine import export_engine
            from gtsa_kit.export.runtime.profile import OptimalShape
            from gtsa_kit.export.tensorrt.build import BuildSettings

            engine_options = EngineOptions(
                runtime=engine.runtime,
                precision=precision,
                options=options,
                optimal=OptimalShape(opt_batch, parse_side(engine.opt_size, "--opt-size") if engine.opt_size else None),
                gpus=parse_capabilities(engine.gpu),
                settings=BuildSettings(
                    workspace=engine.workspace, timing_cache=engine.timing_cache, level=engine.optimization_level
                ),
                calibrate=calibrate,
                images=images,
                out=out,
                force=force,
                dry_run=engine.dry_run,
                layout=parse_layout(engine.layout),
            )
            export_engine(source, import_options, engine_options, result, task)
        else:
            with quick_imports():
                from gtsa_kit.cli.support.export_steps import FileOptions, export_files

            files = FileOptions(precision, options, calibrate, images, out, force, task)
            export_files(source, import_options, format_name, files, result)
        if card:
            write_cards_of(result, source)
