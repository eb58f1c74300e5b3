"""Export of an engine: a graph that passed its parity gate, the engine built from it, and the manifest of both."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest, graph_path, write_manifest
from gtsa_kit.export.manifest_records import AxisRange, EngineRecord, GraphRecord
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.runtime.engine_header import EngineHeader, parse_header
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape, Profile, make_profile
from gtsa_kit.export.runtime.tensorrt_variant import NO_GPU, TensorRTVariant, cannot_run
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import ExportOptions, Precision
from gtsa_kit.export.tensorrt.build import BuildSettings, OnStep, SerializedEngine, build_engine
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file
from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.task_model import TaskModel


@dataclass(frozen=True)
class EngineRequest:
    """Validated request for one engine."""

    variant: TensorRTVariant
    settings: BuildSettings
    ranges: InputRanges
    """Bounded ranges of the input."""
    optimal: OptimalShape
    precision: Precision


def log_path(engine: Path) -> Path:
    """Return the path of the builder's log: `encoder.engine.log` for `encoder.engine`."""
    return engine.with_name(engine.name + ".log")


def export_graph(
    source: Source,
    engine: Path,
    options: ExportOptions,
    images: ParityImages,
    calibration: Calibration | None,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> SourceGraph:
    """Export the graph of an engine beside it, and run its parity gate in ONNX Runtime.

    Args:
        source: Encoder to export.
        engine: Path of the engine; the graph is written to `graph_path` of it.
        options: Options of the engine; tf32 takes a float32 graph.
        images: Images for the gate.
        calibration: Images for int8 and fp8.
        on_case: Called with (cases done, all cases).

    Raises:
        ValueError: The options are not supported, or calibration images are missing.
    """
    path = graph_path(engine)
    export_artifact(source, "onnx", path, _graph_options(options), images, calibration, on_case)
    return read_graph_file(path)


def write_graph(source: Source, path: Path, options: ExportOptions, calibration: Calibration | None) -> SourceGraph:
    """Write a graph for a dry run, without parity gate and manifest."""
    export_onnx(source.model, _graph_options(options), path, calibration)
    return read_graph_file(path)


def _graph_options(options: ExportOptions) -> ExportOptions:
    """Return the options of the graph: tf32 is a way to multiply the matrices of a float32 graph."""
    return replace(options, precision="fp32") if options.precision == "tf32" else options


def copy_graph(graph: SourceGraph, engine: Path) -> SourceGraph:
    """Copy a graph beside its engine, as one file with the weights inside."""
    path = graph_path(engine)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = graph.model.SerializeToString()
    with atomic_write(path) as file:
        file.write(content)
    if graph.manifest:
        write_manifest(path, graph.manifest)
    return read_graph_file(path, graph.layout)


def write_engine(
    graph: SourceGraph,
    engine: Path,
    request: EngineRequest,
    on_step: OnStep = lambda *_: None,
    log: Path | None = None,
) -> Manifest:
    """Build the engine of a graph that lies beside it, and write the engine and its manifest.

    Args:
        graph: The graph.
        engine: Path of the engine.
        request: Validated options of the engine.
        on_step: Progress callback (see `OnStep`).
        log: File for the builder's messages, by default `log_path` of the engine.

    Raises:
        EngineBuildError: TensorRT rejects the graph.
        ValueError: The requested ranges do not fit the graph.
    """
    profile = make_profile(request.ranges, request.optimal, graph.default_side)
    graph.check_profile(profile)
    log = log or log_path(engine)
    built = build_engine(request.variant, graph.model, graph.path.name, profile, request.settings, log, on_step)
    header = parse_header(built.content[:64], len(built.content), engine)
    manifest = _manifest(graph, built, header, request, profile)
    with atomic_write(engine) as file:
        file.write(built.content)
    return write_manifest(engine, manifest)


def check_engine_parity(
    model: "Encoder | TaskModel | None",
    engine: Path,
    manifest: Manifest,
    images: ParityImages,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Compare the engine with the float32 model on this machine's GPU, and record the result in the manifest.

    Where the engine can't run, or there is no model, the manifest records why the comparison was not run.
    """
    assert manifest.engine is not None
    reason = cannot_run(manifest.engine) or ("" if model else "not run: there are no float32 weights to compare with")
    if reason or model is None:
        updated = {"engine": manifest.engine.model_copy(update={"parity": reason})}
    else:
        report = check_parity(model, load(engine, "cuda"), images, on_case)
        updated = {"engine": manifest.engine.model_copy(update={"parity": "run"}), "parity": report}  # type: ignore[dict-item]
    return write_manifest(engine, manifest.model_copy(update=updated))


def _manifest(
    graph: SourceGraph, built: SerializedEngine, header: EngineHeader, request: EngineRequest, profile: Profile
) -> Manifest:
    record = _engine_record(graph, built, header, request, profile)
    ranges = {"batch": request.ranges.batch, "height": request.ranges.height, "width": request.ranges.width}
    base = graph.base_manifest(request.precision)
    return base.model_copy(
        update={
            "format": "trt",
            "target": {
                "variant": record.variant,
                "version": record.version,
                "compute_capabilities": " ".join(record.capabilities),
                "opset": str(record.graph.opset),
            },
            "axes": {
                name: AxisRange(min=ranges[name].min, max=ranges[name].max, multiple_of=allowed.multiple_of)
                for name, allowed in base.axes.items()
            },
            "parity": None,
            "content_sha256": hashlib.sha256(built.content).hexdigest(),
            "engine": record,
        }
    )


def _engine_record(
    graph: SourceGraph, built: SerializedEngine, header: EngineHeader, request: EngineRequest, profile: Profile
) -> EngineRecord:
    return EngineRecord(
        variant=request.variant.name,
        version=header.version,
        capabilities=header.capabilities or request.settings.capabilities,
        profile=() if profile.fixed or not graph.dynamic else (profile.min, profile.opt, profile.max),
        graph=GraphRecord(
            file=graph.path.name,
            sha256=graph.sha256,
            opset=next(entry.version for entry in graph.model.opset_import if not entry.domain),
            parity=graph.manifest.parity if graph.manifest else None,
        ),
        parity=NO_GPU,
        optimization_level=request.settings.level,
        workspace_gib=request.settings.workspace,
        seconds=round(built.seconds, 2),
    )
