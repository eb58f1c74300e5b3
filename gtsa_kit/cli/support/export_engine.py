"""Steps and output of `gtsa export --format trt`. Imports torch, so the command imports it when it runs."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.engine_display import (
    build_progress,
    describe_ranges,
    print_dry_run,
    print_engine,
    problem_table,
)
from gtsa_kit.cli.support.engine_request import EngineOptions, make_request
from gtsa_kit.cli.support.export_result import ExportResult
from gtsa_kit.cli.support.export_steps import progress_callback
from gtsa_kit.cli.support.gate_again import gate_again
from gtsa_kit.cli.support.opening import open_encoder
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps, make_console
from gtsa_kit.cli.support.score_steps import fail_if_lower, open_score_gate
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest, graph_path
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import artifact_path, check_supported, read_calibration, record_task_score
from gtsa_kit.export.reference import open_reference
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.export.tensorrt.engine import (
    EngineRequest,
    check_engine_parity,
    copy_graph,
    export_graph,
    log_path,
    write_engine,
    write_graph,
)
from gtsa_kit.export.tensorrt.lint import lint
from gtsa_kit.export.tensorrt.network import EngineBuildError
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file
from gtsa_kit.files import staged
from gtsa_kit.models.preprocessing import Preprocessing


def _preprocessing(opened: Source | SourceGraph) -> Preprocessing | None:
    """Return the preprocessing of a model; None for the graph of another tool, whose images are RGB."""
    if isinstance(opened, Source):
        return opened.encoder.preprocessing
    return Preprocessing.from_dict(opened.manifest.preprocessing) if opened.manifest else None


def export_engine(
    path: Path, import_options: ImportOptions, options: EngineOptions, result: ExportResult, scoring: ScoreOptions
) -> None:
    """Export a graph, check its parity, and build an engine from it; exit with 1 if TensorRT rejects the graph.

    A dry run builds without a parity gate and keeps nothing.
    """
    console = make_console()
    opened = open_for_engine(path, import_options, options, console)
    request = make_request(opened, options, console)
    preprocessing = _preprocessing(opened)
    calibration = read_calibration(require(options.calibrate), preprocessing) if options.calibrate else None
    if options.dry_run:
        _dry_run(opened, options, request, calibration, result, console)
        return
    run_images = opened.images if isinstance(opened, Source) else None
    parity_set = load_parity_images(require(options.images) if options.images else run_images, preprocessing)
    target = options.out
    if isinstance(opened, SourceGraph) and target is None:
        target = opened.path.with_suffix(SUFFIX["trt"])
    engine = artifact_path(opened, "trt", target, options.force)
    score_gate = open_score_gate(source_of(opened), scoring, console)
    if isinstance(opened, SourceGraph) and opened.manifest and opened.report_problem:
        gated = gate_again(opened.path, opened.report_problem, opened.manifest, options.images, console)
        opened = replace(opened, manifest=gated, report_problem="")
    source = source_of(opened)
    with staged(engine) as work:
        graph = _prepare_graph(opened, work, options.options, parity_set, calibration, console)
        console.print(f"building {engine} for {describe_ranges(request.ranges)}", soft_wrap=True)
        manifest = _build(graph, work, log_path(engine), request, result, console)
        with Steps(console) as steps:
            on_case = progress_callback(steps, "parity of the engine")
            manifest = check_engine_parity(source.model if source else None, work, manifest, parity_set, on_case)
    if score_gate:  # the graph, which computes the same, where the engine can't run
        runs = manifest.parity is not None
        record = score_gate(load(engine if runs else graph_path(engine), "cuda" if runs else "cpu"))
        manifest = record_task_score(engine, manifest, record)
    result.add_file(engine, manifest)
    print_engine(engine, manifest, console)
    fail_if_lower(engine, manifest.task_score)


def open_for_engine(
    path: Path, import_options: ImportOptions, options: EngineOptions, console: Console
) -> Source | SourceGraph:
    """Open an ONNX file as a graph to build as it is, or weights to write a graph from.

    An ONNX file of gtsa-kit is opened as weights if another precision, other layers or another input is requested.

    Raises:
        ValueError: The file can't be used, or a precision, layers or an input is requested of another tool's graph.
    """
    if path.suffix != SUFFIX["onnx"] or path.is_dir():
        if options.layout:
            raise ValueError(f"--layout is for the ONNX file of another tool, and {path} is none; omit it")
        return open_encoder(path, import_options, console)
    graph = read_graph_file(path, options.layout)
    precision, layers, input_type = options.precision, options.options.layers, options.options.input
    class_token = options.options.class_token
    if graph.manifest is None:
        changed = options.options.output != "features" or options.options.keep_float
        if precision or layers or class_token or changed or input_type != "float32":
            raise ValueError(
                f"{path} is another tool's graph, which TensorRT builds as it is: its types, outputs and inputs can't "
                "be changed; omit --precision, --layers, --class-token, --input, --output and --keep-float"
            )
        return graph
    own = graph.manifest
    precision_fits = precision in (None, own.precision) or (precision, own.precision) == ("tf32", "fp32")
    outputs_fit = layers in ((), own.layers) and class_token <= own.has_class_token
    outputs_fit = outputs_fit and options.options.output in ("features", own.output) and not options.options.keep_float
    if precision_fits and outputs_fit and input_type in ("float32", own.input_type):
        return graph
    return open_encoder(path, import_options, console)


def source_of(opened: Source | SourceGraph) -> Source | None:
    """Return the float32 model, or None if it is not available."""
    if isinstance(opened, Source):
        return opened
    return open_reference(opened.path, opened.manifest) if opened.manifest else None


def _prepare_graph(
    opened: Source | SourceGraph,
    engine: Path,
    options: ExportOptions,
    parity_set: ParityImages,
    calibration: Calibration | None,
    console: Console,
) -> SourceGraph:
    """Put the graph beside the engine, and check that it passed its parity gate."""
    if isinstance(opened, SourceGraph):
        graph = copy_graph(opened, engine)
    else:
        check_supported("trt", options, calibration is not None)
        console.print(f"writing the graph of {engine.name}", soft_wrap=True)
        with Steps(console) as steps:
            on_case = progress_callback(steps, "parity of the graph")
            graph = export_graph(opened, engine, options, parity_set, calibration, on_case)
    if graph.manifest is None:
        console.print(
            f"{graph.path.name} is another tool's graph: there is no float32 encoder to compare it with", soft_wrap=True
        )
        return graph
    if graph.manifest.parity is None:
        raise ValueError(f"{graph.path} has not been through a parity gate; export it again with gtsa export")
    console.print(parity_table(graph.manifest.parity))
    if not graph.manifest.parity.passed:
        fail(f"{failure_message(graph.path, graph.manifest.parity)}; no engine was built from it", 1)
    return graph


def _build(
    graph: SourceGraph, engine: Path, log: Path, request: EngineRequest, result: ExportResult, console: Console
) -> Manifest:
    try:
        with Steps(console) as steps:
            return write_engine(graph, engine, request, build_progress(steps), log)
    except EngineBuildError as error:
        result.more["problems"] = [asdict(problem) for problem in error.problems]
        console.print(problem_table(error.problems))
        fail(f"{error}. The builder's messages are in {log.name}", 1)


def _dry_run(
    opened: Source | SourceGraph,
    options: EngineOptions,
    request: EngineRequest,
    calibration: Calibration | None,
    result: ExportResult,
    console: Console,
) -> None:
    with tempfile.TemporaryDirectory(prefix="gtsa-dry-") as folder:
        if isinstance(opened, Source):
            check_supported("trt", options.options, calibration is not None)
            opened = write_graph(opened, Path(folder, "encoder.onnx"), options.options, calibration)
        with Steps(console) as steps:
            report = lint(opened, request, build_progress(steps))
    result.more.update(asdict(report))
    print_dry_run(opened.path.name, report, console)
