"""From a source to an engine: a graph that has passed its gate, a plan of it, a manifest that says both."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import AxisRange, EngineRecord, GraphRecord, Manifest, graph_path, write_manifest
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.runtime.engine_header import EngineHeader, parse_header
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape, Profile, make_profile
from gtsa_kit.export.runtime.tensorrt_variant import NO_GPU, TensorRTVariant, cannot_run
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import ExportOptions, Precision
from gtsa_kit.export.tensorrt.build import BuildSettings, OnStep, SerializedEngine, build_engine
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file
from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from gtsa_kit.models.encoder import Encoder


@dataclass(frozen=True)
class EngineRequest:
    """What is asked of an engine."""

    variant: TensorRTVariant
    settings: BuildSettings
    ranges: InputRanges
    """With ends."""
    usual: OptimalShape
    precision: Precision


def log_path(engine: Path) -> Path:
    """`encoder.engine` to `encoder.engine.log`, the builder's own words."""
    return engine.with_name(engine.name + ".log")


def export_graph(
    source: Source,
    engine: Path,
    options: ExportOptions,
    images: ParityImages,
    calibration: Calibration | None,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> SourceGraph:
    """Write the graph of an engine beside it, through its gate in ONNX Runtime."""
    path = graph_path(engine)
    export_artifact(source, "onnx", path, _of_the_graph(options), images, calibration, on_case)
    return read_graph_file(path)


def write_graph(source: Source, path: Path, options: ExportOptions, calibration: Calibration | None) -> SourceGraph:
    """Write the graph alone, for a dry run: no gate, no manifest."""
    export_onnx(source.encoder, _of_the_graph(options), path, calibration)
    return read_graph_file(path)


def _of_the_graph(options: ExportOptions) -> ExportOptions:
    """tf32 is a way to multiply the matrices of a float32 graph."""
    return replace(options, precision="fp32") if options.precision == "tf32" else options


def copy_graph(graph: SourceGraph, engine: Path) -> SourceGraph:
    """Put a graph beside its engine, in one file whatever it was before."""
    path = graph_path(engine)
    if path.exists() and path.samefile(graph.path):
        return graph
    path.parent.mkdir(parents=True, exist_ok=True)
    content = graph.model.SerializeToString()
    with atomic_write(path) as file:
        file.write(content)
    if graph.manifest:
        write_manifest(path, graph.manifest)
    return read_graph_file(path)


def write_engine(graph: SourceGraph, engine: Path, order: EngineRequest, on_step: OnStep = lambda *_: None) -> Manifest:
    """Build the plan of a graph that lies beside it, and write both the plan and its manifest.

    Raises:
        Unbuildable: TensorRT refuses it.
        ValueError: The ranges do not suit the graph.
    """
    profile = make_profile(order.ranges, order.usual, graph.base)
    graph.check_profile(profile)
    plan = build_engine(order.variant, graph.model, graph.path.name, profile, order.settings, log_path(engine), on_step)
    header = parse_header(plan.content[:64], len(plan.content), engine)
    with atomic_write(engine) as file:
        file.write(plan.content)
    manifest = _manifest(graph, plan, header, order, profile)
    write_manifest(engine, manifest)
    return manifest


def check_engine_parity(
    encoder: "Encoder | None",
    engine: Path,
    manifest: Manifest,
    images: ParityImages,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Compare the engine itself with the float32 encoder where that can be done; if not, say so in the manifest."""
    from gtsa_kit.export.runtime.load import load

    assert manifest.engine is not None
    why_not = cannot_run(manifest.engine) or (
        "" if encoder else "not run: there are no float32 weights to compare with"
    )
    if why_not or encoder is None:
        updated = {"engine": manifest.engine.model_copy(update={"parity": why_not})}
    else:
        report = check_parity(encoder, load(engine, "cuda"), images, on_case)
        updated = {"engine": manifest.engine.model_copy(update={"parity": "run"}), "parity": report}  # type: ignore[dict-item]
    manifest = manifest.model_copy(update=updated)
    write_manifest(engine, manifest)
    return manifest


def _manifest(
    graph: SourceGraph, plan: SerializedEngine, header: EngineHeader, order: EngineRequest, profile: Profile
) -> Manifest:
    variant, settings = order.variant, order.settings
    capabilities = header.capabilities or settings.capabilities
    opset = next(entry.version for entry in graph.model.opset_import if not entry.domain)
    record = EngineRecord(
        variant=variant.name,
        version=header.version,
        capabilities=capabilities,
        profile=() if profile.fixed or not graph.dynamic else (profile.min, profile.opt, profile.max),
        sha256=hashlib.sha256(plan.content).hexdigest(),
        graph=GraphRecord(
            file=graph.path.name,
            sha256=graph.sha256,
            opset=opset,
            parity=graph.manifest.parity if graph.manifest else None,
        ),
        parity=NO_GPU,
        optimization_level=settings.level,
        workspace_gib=settings.workspace,
        seconds=round(plan.seconds, 2),
    )
    ranges = {"batch": order.ranges.batch, "height": order.ranges.height, "width": order.ranges.width}
    about = graph.describe(order.precision)
    return about.model_copy(
        update={
            "format": "trt",
            "target": {
                "variant": variant.name,
                "version": header.version,
                "compute_capabilities": " ".join(capabilities),
                "opset": str(opset),
            },
            "axes": {
                name: AxisRange(min=ranges[name].min, max=ranges[name].max, multiple_of=allowed.multiple_of)
                for name, allowed in about.axes.items()
            },
            "parity": None,
            "engine": record,
        }
    )
