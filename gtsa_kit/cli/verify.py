"""`gtsa verify`."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.options import JsonOption, ModelOptions, with_option_groups
from gtsa_kit.cli.support.task_options import ScoreOptions


@with_option_groups
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="Exported file (.onnx, .ts, .pt2, .xml or .engine), folder for another framework (timm, hf, ...), or "
            "model of a Triton repository.",
            metavar="FILE",
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            help="Run or weights that FILE was exported from. Default: the weights at the path in the manifest, beside "
            "FILE or in the folder above, if their sha256 is that of the manifest; else those inside an ONNX file.",
            metavar="SOURCE",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images. Default: the training images, else a sample image of matplotlib."),
    ] = None,
    as_json: JsonOption = False,
    *,
    scoring: ScoreOptions,
    model: ModelOptions,
) -> None:
    """Run the parity gate again on this machine. Exits with 1 if it fails.

    With --score, FILE and the float32 model that it was exported from are also scored on labeled images. It exits with
    1 if FILE loses more than --max-drop. Of an engine that can't run on this machine the graph is scored, of a model of
    Triton the file that it serves.

    Where the weights are not found, FILE is checked without them (content, shapes, finite outputs, repeatability), and
    a line says that it was not compared.

    A folder is compared with the digests in its gtsa.json. The file that a Triton model serves is then checked as any
    other; a checkpoint of another framework is loaded there, and compared with the encoder.

    For a TensorRT engine, the header, the engine and its graph are compared with the manifest, and the gate runs on the
    graph in ONNX Runtime; on a GPU, it runs on the engine too. --device and the options of ONNX Runtime are for FILE,
    --heads, --mean, --std and --branch for SOURCE. FILE is compared at sizes over its whole range and with the layers
    that it was exported with, so there is no --size and no --layers.

    [bold]Examples[/bold]

      gtsa verify deploy/encoder.onnx

      gtsa verify deploy/encoder.xml --against runs/street --images photos/ --json

      gtsa verify deploy/encoder.engine --against runs/street

      gtsa verify models/encoder
    """
    require(file)
    options = model.load_options()
    if options.import_options.given and against is None:
        names = ", ".join(f"--{name}" for name in options.import_options.given)
        raise ValueError(f"{names} is for the weights that --against names; add it, or omit {names}")
    from gtsa_kit.cli.support.opening import open_runner
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.cli.support.verify_scores import score_again, score_engine_again
    from gtsa_kit.cli.support.verify_steps import ReferenceOptions, verify_artifact, verify_engine
    from gtsa_kit.export.formats.content import ReportWarning
    from gtsa_kit.export.spec import SUFFIX

    console = make_console()
    reference = ReferenceOptions(against, options.import_options)
    if file.is_dir():
        from gtsa_kit.cli.support.verify_folder import verify_folder

        verify_folder(file, reference, images, options, as_json, console, scoring)
        return
    if file.suffix not in SUFFIX.values():
        raise ValueError(f"{file} is not an exported file; their suffixes are {', '.join(SUFFIX.values())}")
    if file.suffix == SUFFIX["trt"]:
        if options.provider_options:
            raise ValueError("--provider, --engine-cache and --fallback are for .onnx files; omit them")
        verify_engine(file, reference, images, model.device, as_json, console)
        if scoring.score:
            score_engine_again(file, reference, scoring, model.device, console)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReportWarning)  # the steps say it
        runner = open_runner(file, options.with_facts(), console)
    verify_artifact(file, runner, reference, images, as_json, console)
    if scoring.score:
        score_again(file, runner, reference, scoring, console)
