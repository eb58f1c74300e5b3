"""Rows of the table of `gtsa info`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from gtsa_kit.cli.support.parity_table import measures, score_text

if TYPE_CHECKING:
    from gtsa_kit.export.folder_report import FolderReport
    from gtsa_kit.export.formats.onnx_graph import OnnxGraphInfo
    from gtsa_kit.export.inspect_file import FileInfo
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.manifest_records import AxisRange, EngineRecord, TensorSpec
    from gtsa_kit.export.parity_report import ParityReport
    from gtsa_kit.export.runtime.engine_header import EngineHeader

Row = tuple[str, str]
"""Name and text of one row of the table."""
MAX_OPERATORS = 12
"""Number of operators in the table, the most frequent first; --json prints all."""


def rows(facts: "FileInfo") -> Iterator[Row]:
    """Iterate over the rows of the table."""
    yield "file", str(facts.path)
    yield "kind", facts.kind
    yield "size", f"{facts.size / 1e6:.1f} MB"
    if facts.note:
        yield "note", facts.note
    if facts.manifest:
        yield from _manifest_rows(facts.manifest, facts.report_problem)
    if facts.folder:
        yield from _folder_rows(facts.folder, facts.report_problem)
    if facts.header:
        yield from _header_rows(facts.header)
    if facts.encoder:
        yield from _encoder_rows(facts.encoder)
    if facts.graph:
        yield from _graph_rows(facts.graph, facts.manifest is None)


def _manifest_rows(manifest: "Manifest", report_problem: str) -> Iterator[Row]:
    yield "precision", manifest.precision
    yield "target", _pairs(manifest.target)
    yield "written by", f"gtsa-kit {manifest.gtsa_kit}"
    yield "source sha256", manifest.source_sha256
    if manifest.source.path or manifest.source.relative:
        yield "source", manifest.source.path or manifest.source.relative
    yield "architecture", _architecture(manifest.architecture)
    yield "embedding", _embedding(manifest.architecture)
    yield "dim", str(manifest.dim)
    if manifest.task:
        yield from _task_rows(manifest)
    yield "preprocessing", _pairs(manifest.preprocessing)
    yield from _tensor_rows(manifest.inputs, manifest.outputs)
    yield from ((axis, _range(allowed)) for axis, allowed in manifest.axes.items())
    if manifest.engine:
        yield from _engine_rows(manifest.engine)
    if report_problem:
        yield "parity", f"no report: {report_problem}"
        return
    if manifest.engine:
        yield from _parity_rows(manifest.engine.graph.parity, "of the graph")
    if manifest.engine is None or manifest.parity:
        yield from _parity_rows(manifest.parity, "of the engine" if manifest.engine else "")


def _task_rows(manifest: "Manifest") -> Iterator[Row]:
    yield "task", str(manifest.task)
    yield "labels", f"{len(manifest.labels)}: {', '.join(label.name for label in manifest.labels)}"
    if manifest.box_format:
        yield (
            "boxes",
            f"{manifest.box_format}; at most {manifest.max_detections}, scores above {manifest.score_threshold}",
        )
    if manifest.mask_format:
        yield "masks", manifest.mask_format
    if manifest.head:
        head = manifest.head
        layers = f" on blocks {', '.join(map(str, head.layers))}" if head.layers else ""
        yield "head", f"{head.name}{f', {head.pyramid}' if head.pyramid else ''}{layers}"
    if manifest.task_score:
        yield "score", score_text(manifest.task_score)


def _folder_rows(report: "FolderReport", problem: str) -> Iterator[Row]:
    yield "written by", f"gtsa-kit {report.gtsa_kit}"
    yield "files", ", ".join(report.files)
    yield "architecture", _architecture(report.architecture)
    yield "embedding", _embedding(report.architecture)
    yield "preprocessing", _pairs(report.preprocessing)
    if problem:
        yield "parity", f"no report: {problem}"
    else:
        yield from _parity_rows(report.parity)


def _header_rows(header: "EngineHeader") -> Iterator[Row]:
    yield "runs with", f"{header.variant} {header.version}"
    if header.capabilities:
        yield "GPUs", f"compute capabilities {', '.join(header.capabilities)}"


def _engine_rows(engine: "EngineRecord") -> Iterator[Row]:
    shapes = ("x".join(map(str, shape)) for shape in engine.profile)
    yield "profile", " / ".join(shapes) or "one shape"
    yield "built in", f"{engine.seconds:.1f} s"
    yield "graph", f"{engine.graph.file}, opset {engine.graph.opset}, sha256 {engine.graph.sha256}"
    yield "engine on a GPU", engine.parity


def _parity_rows(report: "ParityReport | None", subject: str = "") -> Iterator[Row]:
    if report is None:
        yield f"parity {subject}".strip(), "not checked"
        return
    worst = report.worst
    yield f"parity {subject}".strip(), f"{'passed' if report.passed else 'FAILED'} on {report.images}; {report.runtime}"
    if report.problem:
        yield "problem", report.problem
    if report.settled is not None:
        more = "changes nothing" if report.settled else "changes detections"
        yield "suppression", f"one more round {more}"
    if worst.problem:
        yield "worst", f"{worst.output} at {worst.batch} x {worst.height} x {worst.width}: {worst.problem}"
        if report.advice:
            yield "advice", report.advice
        return
    yield (
        "worst",
        f"{worst.output} at {worst.batch} x {worst.height} x {worst.width}: {measures(worst)}"
        + (f", on {worst.image}" if worst.image else ""),
    )


def _encoder_rows(encoder: Mapping[str, Any]) -> Iterator[Row]:
    training = encoder.get("training") or {}
    if "gtsa_kit" in encoder:
        yield "written by", f"gtsa-kit {encoder['gtsa_kit']}"
    yield "source sha256", encoder["sha256"]
    yield "parameters", _counts(encoder["parameters"])
    if "architecture" in encoder:
        yield "architecture", _architecture(encoder["architecture"])
        yield "embedding", _embedding(encoder["architecture"])
        if task := encoder.get("task"):
            yield "task", task["task"]
            yield "labels", f"{len(task['labels'])}: {', '.join(label['name'] for label in task['labels'])}"
            yield "head", str(task["head"])
        yield "preprocessing", _pairs(encoder.get("preprocessing", {}))
    plain = {name: value for name, value in training.items() if not isinstance(value, dict | list)}
    if plain:
        yield "training", _pairs(plain)


def _graph_rows(graph: "OnnxGraphInfo", third_party: bool) -> Iterator[Row]:
    if third_party:  # the manifest of a gtsa-kit file has them too, with their ranges
        yield from _tensor_rows(graph.inputs, graph.outputs)
    yield "producer", graph.producer
    yield "IR version", str(graph.ir_version)
    yield "opsets", _pairs(graph.opsets)
    yield "parameters", _counts(graph.parameters)
    frequent = ", ".join(f"{count} {name}" for name, count in islice(graph.operators.items(), MAX_OPERATORS))
    rest = len(graph.operators) - MAX_OPERATORS
    yield "operators", frequent + (f" and {rest} other kinds" if rest > 0 else "")
    if graph.external:
        yield "external data", ", ".join(graph.external)
    yield from (("remark", remark) for remark in graph.remarks)


def _tensor_rows(inputs: "Iterable[TensorSpec]", outputs: "Iterable[TensorSpec]") -> Iterator[Row]:
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            about = ": samples, normalized in the graph" if spec.samples else ""
            yield kind, f"{spec.name}  {spec.dtype} ({', '.join(map(str, spec.shape))}){about}"


def _architecture(architecture: Mapping[str, Any]) -> str:
    name, keys = architecture.get("name", "unknown"), ("width", "depth", "heads", "patch")
    return f"{name}: {_pairs({key: architecture[key] for key in keys if key in architecture})}"


def _embedding(architecture: Mapping[str, Any]) -> str:
    from gtsa_kit.models.architecture import EMBEDDING_NAMES

    kind = architecture.get("embedding", "mean")
    return EMBEDDING_NAMES.get(kind, kind)


def _range(allowed: "AxisRange") -> str:
    ends = f"{allowed.min} or more" if allowed.max is None else f"{allowed.min} to {allowed.max}"
    return ends if allowed.multiple_of == 1 else f"{ends}, in steps of {allowed.multiple_of}"


def _counts(parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in parameters.items()) or "none"


def _pairs(values: Mapping[str, Any]) -> str:
    """Format a mapping as text such as `size 224, mean 0.485 0.456 0.406`."""
    return ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in values.items()
    )
