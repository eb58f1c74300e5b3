"""`gtsa export --format trt`: what it does, and what it shows of it. Commands import this when they run."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import counting, megabytes, open_source_with_note
from gtsa_kit.cli.support.parity_table import parity_table, verdict
from gtsa_kit.cli.support.progress import Steps, console
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.pipeline import artifact_path, check_supported, read_calibration
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape
from gtsa_kit.export.runtime.tensorrt_variant import check_capabilities, choose_variant
from gtsa_kit.export.source import ImportOptions, Source, find_reference
from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, SUFFIX, ExportOptions
from gtsa_kit.export.tensorrt.build import BuildSettings, OnStep, check_settings
from gtsa_kit.export.tensorrt.engine import (
    EngineRequest,
    check_engine_parity,
    copy_graph,
    export_graph,
    log_path,
    write_engine,
    write_graph,
)
from gtsa_kit.export.tensorrt.lint import Lint, lint
from gtsa_kit.export.tensorrt.network import EngineBuildError, ParseProblem
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file
from gtsa_kit.models.encoder import Encoder


@dataclass(frozen=True)
class EngineOptions:
    """What the command line asks of an engine."""

    runtime: str
    precision: str | None
    options: ExportOptions
    usual: OptimalShape
    gpus: tuple[str, ...]
    settings: BuildSettings


def export_engine(
    path: Path,
    hints: ImportOptions,
    asked: EngineOptions,
    calibrate: Path | None,
    images: Path | None,
    out: Path | None,
    force: bool,
    dry_run: bool,
) -> None:
    """A graph through its gate, then an engine of it; a dry run keeps neither. Exits with 1 if TensorRT refuses it."""
    shown = console()
    opened = open_for_engine(path, hints, asked, shown)
    order = make_order(opened, asked, shown)
    calibration = read_calibration(require(calibrate)) if calibrate else None
    if dry_run:
        _dry_run(opened, asked, order, calibration, shown)
        return
    parity_set = load_parity_images(require(images) if images else _images(opened))
    if isinstance(opened, SourceGraph) and out is None:
        out = opened.path.with_suffix(SUFFIX["trt"])
    engine = artifact_path(opened, "trt", out, force)
    graph = _graph(opened, engine, asked.options, parity_set, calibration, shown)
    shown.print(f"building {engine}, for {_shapes(order.ranges)}", soft_wrap=True)
    try:
        with Steps(shown) as steps:
            manifest = write_engine(graph, engine, order, _building(steps))
    except EngineBuildError as error:
        shown.print(problem_table(error.problems))
        fail(f"{error}. The builder's own words are in {log_path(engine).name}", 1)
    with Steps(shown) as steps:
        encoder = _reference(opened)
        manifest = check_engine_parity(encoder, engine, manifest, parity_set, counting(steps, "parity of the engine"))
    _show_engine(engine, manifest, shown)


def open_for_engine(path: Path, hints: ImportOptions, asked: EngineOptions, shown: Console) -> Source | SourceGraph:
    """An ONNX file as it is, if that is what is asked for; else weights, of which a graph is to be written.

    Raises:
        ValueError: Nothing usable there, or a foreign graph with a precision or layers asked of it.
    """
    if path.suffix != SUFFIX["onnx"] or path.is_dir():
        return open_source_with_note(path, hints, shown)
    graph = read_graph_file(path)
    options = asked.options
    if graph.manifest is None:
        if asked.precision or options.layers or options.input == "uint8":
            raise ValueError(
                f"{path} is another tool's graph, and TensorRT builds it as it is: types, outputs and inputs are those "
                "of the file; leave out --precision, --layers and --input"
            )
        return graph
    own = graph.manifest
    precision_fits = asked.precision in (None, own.precision) or (asked.precision, own.precision) == ("tf32", "fp32")
    if precision_fits and options.layers in ((), own.layers) and options.input in ("float32", own.inputs[0].dtype):
        return graph
    return open_source_with_note(path, hints, shown)


def make_order(opened: Source | SourceGraph, asked: EngineOptions, shown: Console) -> EngineRequest:
    """Everything that can be refused before anything is written."""
    variant, why = choose_variant(asked.runtime)
    shown.print(f"{variant.name} {variant.version}: {why}")
    check_settings(variant, asked.settings)
    ranges = InputRanges(asked.options.batch, asked.options.height, asked.options.width, asked.options.input == "uint8")
    if isinstance(opened, SourceGraph):
        own = opened.ranges()
        ranges = InputRanges(
            own.batch if asked.options.batch == ANY_BATCH else asked.options.batch,
            own.height if asked.options.height == ANY_SIZE else asked.options.height,
            own.width if asked.options.width == ANY_SIZE else asked.options.width,
            own.uint8_input,
        )
    precision = asked.options.precision
    if isinstance(opened, SourceGraph) and precision != "tf32":
        precision = opened.manifest.precision if opened.manifest else "fp32"  # type: ignore[assignment]
    gpus = check_capabilities(variant, asked.gpus, precision, dynamic=not ranges.height.fixed)
    settings = replace(asked.settings, capabilities=gpus, tf32=precision == "tf32")
    return EngineRequest(variant, settings, ranges.bounded(asked.usual), asked.usual, precision)


def problem_table(problems: list[ParseProblem]) -> Table:
    """Every node that TensorRT refuses."""
    table = Table(title="TensorRT does not take", title_justify="left", box=None)
    for name in ("node", "operator", "layer", "since"):
        table.add_column(name, overflow="fold")
    for problem in problems:
        table.add_row(problem.node, problem.operator, problem.layer, problem.said)
    return table


def _reference(opened: Source | SourceGraph) -> Encoder | None:
    """The float32 encoder, if it is at hand."""
    if isinstance(opened, SourceGraph):
        source = find_reference(opened.path, opened.manifest) if opened.manifest else None
        return source.encoder if source else None
    return opened.encoder


def _images(opened: Source | SourceGraph) -> Path | None:
    return opened.images if isinstance(opened, Source) else None


def _graph(
    opened: Source | SourceGraph,
    engine: Path,
    options: ExportOptions,
    parity_set: ParityImages,
    calibration: Calibration | None,
    shown: Console,
) -> SourceGraph:
    """The graph beside the engine, past its gate."""
    if isinstance(opened, SourceGraph):
        graph = copy_graph(opened, engine)
    else:
        check_supported("trt", options, calibration is not None)
        shown.print(f"writing the graph of {engine}", soft_wrap=True)
        with Steps(shown) as steps:
            on_case = counting(steps, "parity of the graph")
            graph = export_graph(opened, engine, options, parity_set, calibration, on_case)
    if graph.manifest is None:
        shown.print(
            f"{graph.path.name} is another tool's: there is no float32 encoder to compare it with", soft_wrap=True
        )
        return graph
    if graph.manifest.parity is None:
        raise ValueError(f"{graph.path} has not been through its parity gate; export it again with gtsa export")
    shown.print(parity_table(graph.manifest.parity))
    if not graph.manifest.parity.passed:
        fail(f"{verdict(graph.path, graph.manifest.parity)}; no engine was built of it", 1)
    return graph


def _dry_run(
    opened: Source | SourceGraph,
    asked: EngineOptions,
    order: EngineRequest,
    calibration: Calibration | None,
    shown: Console,
) -> None:
    """Whether TensorRT takes it; no parity, and nothing is kept."""
    with tempfile.TemporaryDirectory(prefix="gtsa-dry-") as folder:
        if isinstance(opened, Source):
            check_supported("trt", asked.options, calibration is not None)
            opened = write_graph(opened, Path(folder, "encoder.onnx"), asked.options, calibration)
        with Steps(shown) as steps:
            found = lint(opened, order, _building(steps))
    if found.problems:
        shown.print(problem_table(list(found.problems)))
        fail(str(EngineBuildError(opened.path.name, list(found.problems))), 1)
    shown.print(_lint_table(found))
    shown.print(f"{opened.path.name} builds; nothing was kept", soft_wrap=True)


def _lint_table(found: Lint) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("size", f"{found.size / 1e6:.1f} MB, built in {found.seconds:.1f} s")
    table.add_row("GPUs", ", ".join(found.capabilities))
    for name, dtype, shape in found.tensors:
        table.add_row(name, f"{dtype} ({', '.join('any' if length == -1 else str(length) for length in shape)})")
    return table


def _building(steps: Steps) -> OnStep:
    def tell(what: str, done: int, total: int) -> None:
        if (steps.stage, steps.total) != ("building", total):
            steps.begin("building", total)
        steps.update(done, what)

    return tell


def _show_engine(engine: Path, manifest: Manifest, shown: Console) -> None:
    record, parity = manifest.engine, manifest.parity
    assert record is not None
    if parity:
        shown.print(parity_table(parity))
    held = "does not hold" if parity and not parity.passed else "holds" if parity else record.parity
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("engine", f"{engine}, {megabytes(engine):.1f} MB in {record.seconds:.1f} s")
    table.add_row("for", f"{record.variant} {record.version}, compute capabilities {', '.join(record.capabilities)}")
    table.add_row("parity of the engine", held)
    table.add_row("beside it", f"{engine.name}.json (manifest), {record.graph.file}, {log_path(engine).name}")
    shown.print(table)
    if parity and not parity.passed:
        fail(f"{verdict(engine, parity)}; do not use it, its report is beside it", 1)


def _shapes(ranges: InputRanges) -> str:
    batch, height, width = (
        str(one.min) if one.fixed else f"{one.min} to {one.max}" for one in (ranges.batch, ranges.height, ranges.width)
    )
    return f"batches of {batch}, height {height}, width {width}"
