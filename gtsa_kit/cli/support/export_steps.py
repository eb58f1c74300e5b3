"""Steps and output of `gtsa export` for all formats but engines and Triton. Commands import this when they run."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_result import ExportResult, size_in_bytes
from gtsa_kit.cli.support.opening import open_encoder
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps, make_console
from gtsa_kit.cli.support.score_steps import fail_if_lower, open_score_gate, score_failure, score_file
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.export.benchmark.autoselect import Autoselection, autoselect, candidates
from gtsa_kit.export.formats.framework_files import channels_note, embedding_call
from gtsa_kit.export.formats.frameworks import export_framework
from gtsa_kit.export.formats.quant_layers import QUANT_TYPES, activation_scales, layer_sensitivity
from gtsa_kit.export.formats.quantize import Calibration, calibration_batches
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import artifact_path, check_supported, export_artifact, read_calibration
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import FORMATS, FRAMEWORKS, QUANTIZED, SUPPORTED_PRECISIONS, ExportOptions
from gtsa_kit.export.task_graph import build_graph, options_for

MAX_SENSITIVE_LAYERS = 10
"""Number of layers in the table of layers that lose most by quantization."""


@dataclass(frozen=True)
class FileOptions:
    """Options of the command line for one or more artifacts."""

    precision: str | None
    """Value of --precision; None if it was not given."""
    options: ExportOptions
    calibrate: Path | None
    images: Path | None
    out: Path | None
    force: bool
    scoring: ScoreOptions = field(default_factory=ScoreOptions)


def export_files(
    path: Path, import_options: ImportOptions, format_name: str, files: FileOptions, result: ExportResult
) -> None:
    """Export to a format, to all formats ("all"), to the fastest one ("auto"), or to the files of a framework.

    The process exits with 1 if an artifact fails the parity gate.

    Raises:
        ValueError: The source or an option is invalid; nothing was written.
    """
    console = make_console()
    source = open_encoder(path, import_options, console)
    images = load_parity_images(require(files.images) if files.images else source.images, source.encoder.preprocessing)
    if format_name in FRAMEWORKS:
        if source.task:
            raise ValueError(
                f"{format_name} takes an encoder, and {path} is a fine-tuned model; name the weights it began with"
            )
        if files.scoring.score:
            raise ValueError(f"--score is for fine-tuned models, and {path} is an encoder; omit it")
        _export_framework(source, format_name, files, images, result, console)
        return
    calibration = read_calibration(require(files.calibrate), source.encoder.preprocessing) if files.calibrate else None
    if format_name == "auto":
        _export_fastest(source, files, images, calibration, result, console)
        return
    names = available_formats(files.options, console) if format_name == "all" else [format_name]
    _export_formats(source, names, files, images, calibration, result, console)


def available_formats(options: ExportOptions, console: Console) -> list[str]:
    """Return the formats that have the precision and whose library is installed, and print why others are skipped."""
    names = [name for name in FORMATS if options.precision in SUPPORTED_PRECISIONS[name]]
    for name in set(FORMATS) - set(names):
        console.print(f"{name} is skipped: it does not support {options.precision}")
    if "openvino" in names and importlib.util.find_spec("openvino") is None:
        console.print("openvino is skipped: it is not installed; pip install 'gtsa-kit[openvino]'", markup=False)
        names.remove("openvino")
    if "trt" in names:
        console.print("trt is skipped: it has options of its own; export it with --format trt")
        names.remove("trt")
    return names


def _export_formats(
    source: Source,
    names: list[str],
    files: FileOptions,
    images: ParityImages,
    calibration: Calibration | None,
    result: ExportResult,
    console: Console,
) -> None:
    """Export to several formats, and exit with 1 if one fails the parity gate; every option is checked first."""
    options_for(source.model, files.options)
    score_gate = open_score_gate(source, files.scoring, console)
    for name in names:
        check_supported(name, files.options, calibration is not None)
    paths = [artifact_path(source, name, files.out, files.force) for name in names]
    failures = []
    for name, path in zip(names, paths, strict=True):
        console.print(f"writing {path}", soft_wrap=True)
        with Steps(console) as steps:
            on_case = progress_callback(steps)
            manifest = export_artifact(source, name, path, files.options, images, calibration, on_case)
        report = manifest.parity
        assert report is not None
        console.print(parity_table(report))
        if report.passed:
            manifest = score_file(path, manifest, score_gate)
            result.add_file(path, manifest)
            if manifest.task_score and not manifest.task_score.passed:
                failures.append(score_failure(path, manifest.task_score))
            _print_artifact(path, manifest, console)
            continue
        result.add_file(path, manifest)
        failures.append(f"{failure_message(path, report)}; do not use it, its report is beside it")
        if calibration and files.options.precision in QUANTIZED:
            console.print(_sensitivity_table(source, calibration, files.options, console))
    if failures:
        fail(failures[0], 1)


def _export_fastest(
    source: Source,
    files: FileOptions,
    images: ParityImages,
    calibration: Calibration | None,
    result: ExportResult,
    console: Console,
) -> None:
    """Export to the fastest format on this machine that passes the parity gate."""
    out = files.out or source.folder
    if out.suffix and not out.is_dir():
        raise ValueError(f"{out} ends in the suffix of no format; name a folder, or a format with --format")
    score_gate = open_score_gate(source, files.scoring, console)
    rounds = candidates(files.precision)  # type: ignore[arg-type]
    for candidate in (candidate for group in rounds for candidate in group):
        check_supported(candidate.file_format, files.options, calibration is not None)
        artifact_path(source, candidate.file_format, out, files.force)
    with Steps(console) as steps:

        def on_step(step: str, done: int, total: int) -> None:
            if done == 0:
                steps.begin("autoselect", total)
            steps.update(done, step)

        choice = autoselect(source, out, files.options, rounds, images, calibration, on_step)
    if choice is None:
        fail("no format passed the parity gate; export to one by name with --format to see how it differs", 1)
    manifest = score_file(choice.path, choice.manifest, score_gate)
    result.add_file(choice.path, manifest)
    result.more["speeds"] = [asdict(speed) for speed in choice.speeds]
    result.more["failed"] = [str(candidate) for candidate in choice.failed]
    _print_choice(choice, console)
    fail_if_lower(choice.path, manifest.task_score)


def _print_choice(choice: Autoselection, console: Console) -> None:
    assert choice.manifest.parity is not None
    console.print(parity_table(choice.manifest.parity))
    table = Table(title="images per second", title_justify="left", box=None)
    for name in ("artifact", "images/s", "shape"):
        table.add_column(name, justify="right" if name == "images/s" else "left")
    for speed in sorted(choice.speeds, key=lambda one: -one.images_per_second):
        table.add_row(speed.name, f"{speed.images_per_second:.1f}", str(speed.shape))
    console.print(table)
    for candidate in choice.failed:
        console.print(f"{candidate} failed the parity gate")
    if importlib.util.find_spec("openvino") is None:
        console.print("OpenVINO may be faster on this CPU: pip install 'gtsa-kit[openvino]'", markup=False)
    _print_artifact(choice.path, choice.manifest, console)


def _print_artifact(path: Path, manifest: Manifest, console: Console) -> None:
    console.print(
        f"{path}  {manifest.format} {manifest.precision}, {megabytes(path):.1f} MB, parity passed; "
        f"the manifest is {path.name}.json",
        soft_wrap=True,
    )


def _export_framework(
    source: Source, framework: str, files: FileOptions, images: ParityImages, result: ExportResult, console: Console
) -> None:
    """Write the files of another framework, read them back and compare."""
    folder = files.out or source.folder / framework
    origin = source.sha256, source.record
    report = export_framework(source.encoder, framework, folder, images, files.force, *origin)
    assert report.parity is not None
    result.add_folder(folder, report)
    console.print(parity_table(report.parity))
    if not report.parity.passed:
        fail(f"{failure_message(folder, report.parity)}; do not use it, its report is in gtsa.json", 1)
    console.print(f"{folder}  {', '.join(report.files)}; parity passed; usage: docs/frameworks.md", soft_wrap=True)
    call = embedding_call(framework, source.encoder.architecture.embedding).replace("FOLDER", str(folder))
    console.print(call, soft_wrap=True, markup=False)
    if note := channels_note(framework, source.encoder.preprocessing):
        console.print(note, soft_wrap=True, markup=False)


def _sensitivity_table(source: Source, calibration: Calibration, options: ExportOptions, console: Console) -> Table:
    """Build a table of the layers that lose most by quantization."""
    batches = list(calibration_batches(calibration, source.encoder.preprocessing, options))
    graph, quant_type = build_graph(source.model, options_for(source.model, options)), QUANT_TYPES[options.precision]
    with Steps(console) as steps:
        scales = activation_scales(graph, batches, quant_type)
        on_layer = progress_callback(steps, "layer sensitivity")
        layers = layer_sensitivity(graph, batches[0], scales, quant_type, on_layer)
    table = Table(
        title=f"min patch cosine if this layer alone were {options.precision}", title_justify="left", box=None
    )
    table.add_column("layer")
    table.add_column("cosine", justify="right")
    for name, cosine in layers[:MAX_SENSITIVE_LAYERS]:
        table.add_row(name, f"{cosine:.6f}")
    return table


def progress_callback(steps: Steps, stage: str = "parity") -> Callable[[int, int], None]:
    """Return a function of (done, total) that displays the progress of a stage."""

    def on_progress(done: int, total: int) -> None:
        if done == 1:
            steps.begin(stage, total)
        steps.update(done)

    return on_progress


def megabytes(path: Path) -> float:
    """Return the size of an artifact in MB, with the weights beside an OpenVINO file."""
    return size_in_bytes(path) / 1e6
