"""gtsa verify."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.providers import EngineCacheOption, FallbackOption, ProviderOption


def verify(
    file: Annotated[Path, typer.Argument(help="An exported file: .onnx, .ts, .pt2, .xml, .engine.", metavar="FILE")],
    against: Annotated[
        Path | None,
        typer.Option(
            help="The run or weights that it came from. Default: encoder.safetensors beside it, if it is that; else "
            "the weights inside a float32 ONNX file.",
            metavar="SOURCE",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Images. Default: those of the run, else a sample of matplotlib's.")
    ] = None,
    device: Annotated[str, typer.Option(help="What runs FILE: auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    provider: ProviderOption = "auto",
    engine_cache: EngineCacheOption = None,
    fallback: FallbackOption = False,
) -> None:
    """Run the parity gate again, on this machine, on any images. Exits with 1 if it does not hold.

    Of a TensorRT engine, where there is no GPU to run it: its header, its plan and its graph against its manifest, and
    the gate on its graph, in ONNX Runtime.

    [bold]Examples[/bold]

      gtsa verify deploy/encoder.onnx

      gtsa verify deploy/encoder.xml --against runs/street --images photos/ --json

      gtsa verify deploy/encoder.engine --against runs/street
    """
    require(file)
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.cli.support.providers import open_runner
    from gtsa_kit.cli.support.verify_steps import verify_artifact, verify_engine
    from gtsa_kit.export.spec import SUFFIX

    if file.suffix not in SUFFIX.values():
        raise ValueError(f"{file} is no exported file; those end in {', '.join(SUFFIX.values())}")
    shown = make_console()
    if file.suffix == SUFFIX["trt"]:
        if provider != "auto" or engine_cache or fallback:
            raise ValueError("--provider, --engine-cache and --fallback are for .onnx files; leave them out")
        return verify_engine(file, against, images, device, as_json, shown)
    runner = open_runner(file, device, provider, engine_cache, fallback, shown)
    return verify_artifact(file, runner, against, images, as_json, shown)
