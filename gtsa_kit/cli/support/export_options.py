"""Options of `gtsa export`: its formats, and those of one format each, which `options.with_option_groups` adds."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, NoReturn

import typer

SIDES = "N, or HEIGHTxWIDTH; multiples of the patch size, 16 for the encoders of gtsa-kit."
ENGINES = "TensorRT (--format trt)"
TRITON = "NVIDIA Triton (--format triton)"


@dataclass(frozen=True)
class EngineExportOptions:
    """Options of TensorRT engines."""

    runtime: Annotated[
        str,
        typer.Option(
            help="tensorrt (builds for the GPU of this machine) or tensorrt-rtx (builds without a GPU). auto: tensorrt "
            "if it and a GPU are available, else tensorrt-rtx.",
            rich_help_panel=ENGINES,
        ),
    ] = "auto"
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Compute capabilities that the engine runs on: 8.6,8.9,12.0. Default: for tensorrt-rtx all that it "
            "supports from 8.0 (fp8: 8.9), for tensorrt that of this machine.",
            rich_help_panel=ENGINES,
        ),
    ] = None
    opt_size: Annotated[
        str | None,
        typer.Option(
            help=f"Input size that the engine is optimized for. {SIDES} Default: the training size, such as 224.",
            rich_help_panel=ENGINES,
        ),
    ] = None
    workspace: Annotated[
        float | None,
        typer.Option(help="Maximum GPU workspace of one layer, in GiB. Default: no limit.", rich_help_panel=ENGINES),
    ] = None
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            help="File with kernel timings, kept between builds; tensorrt only. Default: none.", rich_help_panel=ENGINES
        ),
    ] = None
    optimization_level: Annotated[
        int | None,
        typer.Option(help="0 to 5: effort of the search for fast kernels. Default: 3.", rich_help_panel=ENGINES),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            help="nchw or nhwc: layout of the images of another tool's ONNX file, where its shape allows both. "
            "Default: read from the shape.",
            rich_help_panel=ENGINES,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Parse and build, list the rejected nodes, write nothing.", rich_help_panel=ENGINES
        ),
    ] = False


@dataclass(frozen=True)
class TritonExportOptions:
    """Options of Triton's model repositories."""

    name: Annotated[
        str | None,
        typer.Option(help="Name of the model. Default: encoder, of a fine-tuned run model.", rich_help_panel=TRITON),
    ] = None
    instances: Annotated[
        str | None,
        typer.Option(help="N, gpu:N or cpu:N: instances on each device. Default: 1.", rich_help_panel=TRITON),
    ] = None
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Maximum batch size of dynamic batching; 0 disables it. Default: that of the graph, or 16.",
            rich_help_panel=TRITON,
        ),
    ] = None
    queue_delay_ms: Annotated[
        float | None,
        typer.Option(help="Maximum time that a request waits for others, in ms. Default: 1.", rich_help_panel=TRITON),
    ] = None


def check_unused(group: EngineExportOptions | TritonExportOptions, format_name: str, needed: str) -> None:
    """Raise `ValueError` if an option of one format is given with another format."""
    for field in fields(group):
        if format_name != needed and getattr(group, field.name) != field.default:
            refuse_option("--" + field.name.replace("_", "-"), needed)


def refuse_option(option: str, needed: str) -> NoReturn:
    """Raise `ValueError` for an option that needs another format."""
    raise ValueError(f"{option} needs --format {needed}; add it, or omit {option}")


def resolve_format(format_name: str, out: Path | None) -> str:
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
