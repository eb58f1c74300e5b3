"""gtsa info."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gtsa_kit.export.formats.onnx_graph import OnnxGraphInfo
    from gtsa_kit.export.inspect_file import FileInfo
    from gtsa_kit.export.manifest import AxisRange, EngineRecord, Manifest, ParityReport, TensorSpec
    from gtsa_kit.export.runtime.engine_header import EngineHeader

Row = tuple[str, str]
OPERATORS = 12
"""The most frequent ones; --json has them all."""


def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="An exported file, a run folder, its encoder.safetensors, or anybody's .onnx.", metavar="FILE"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known as JSON.")] = False,
) -> None:
    """Say what a file is, what it takes and gives, and whether it was proved; nothing is run.

    [bold]Examples[/bold]

      gtsa info runs/street/encoder.onnx

      gtsa info model_of_others.onnx --json
    """
    from gtsa_kit.export.inspect_file import inspect_file

    found = inspect_file(file)
    if as_json:
        print(json.dumps(as_data(found), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(found):
        table.add_row(name, text)
    Console(highlight=False, markup=False).print(table)  # what was asked for, so it goes to standard output


def as_data(found: "FileInfo") -> dict[str, Any]:
    """For JSON."""
    from dataclasses import asdict

    graph = found.graph
    return {
        "path": str(found.path),
        "kind": found.kind,
        "size": found.size,
        "manifest": found.manifest.model_dump(mode="json") if found.manifest else None,
        "graph": asdict(graph)
        | {name: [spec.model_dump(mode="json") for spec in getattr(graph, name)] for name in ("inputs", "outputs")}
        if graph
        else None,
        "header": asdict(found.header) if found.header else None,
        "encoder": dict(found.encoder) or None,
    }


def rows(found: "FileInfo") -> Iterator[Row]:
    """What there is to say, by name."""
    yield "file", str(found.path)
    yield "kind", found.kind
    yield "size", f"{found.size / 1e6:.1f} MB"
    if found.manifest:
        yield from _manifest_rows(found.manifest)
    if found.header:
        yield from _header_rows(found.header)
    if found.encoder:
        yield from _encoder_rows(found.encoder)
    if found.graph:
        yield from _graph_rows(found.graph, found.manifest is None)


def _manifest_rows(manifest: "Manifest") -> Iterator[Row]:
    yield "precision", manifest.precision
    yield "target", _pairs(manifest.target)
    yield "written by", f"gtsa-kit {manifest.gtsa_kit}"
    yield "source sha256", manifest.source_sha256
    yield "architecture", _architecture(manifest.architecture)
    yield "dim", str(manifest.dim)
    yield "preprocessing", _pairs(manifest.preprocessing)
    yield from _tensor_rows(manifest.inputs, manifest.outputs)
    yield from ((axis, _range(allowed)) for axis, allowed in manifest.axes.items())
    if manifest.engine:
        yield from _engine_rows(manifest.engine)
        yield from _parity_rows(manifest.engine.graph.parity, "of the graph")
    if manifest.engine is None or manifest.parity:
        yield from _parity_rows(manifest.parity, "of the engine" if manifest.engine else "")


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


def _parity_rows(report: "ParityReport | None", of: str = "") -> Iterator[Row]:
    if report is None:
        yield f"parity {of}".strip(), "not checked"
        return
    worst = report.worst
    yield f"parity {of}".strip(), f"{'held' if report.passed else 'FAILED'} on {report.images}; {report.runtime}"
    yield (
        "worst",
        f"{worst.output} at {worst.batch} x {worst.height} x {worst.width}: cosine {worst.min_cosine:.7f}, "
        f"max {worst.max_abs:.1e}" + (f", on {worst.image}" if worst.image else ""),
    )


def _encoder_rows(encoder: Mapping[str, Any]) -> Iterator[Row]:
    training = encoder.get("training") or {}
    yield "written by", f"gtsa-kit {encoder.get('gtsa_kit', 'unknown')}"
    yield "source sha256", encoder["sha256"]
    yield "parameters", _counts(encoder["parameters"])
    if "architecture" in encoder:
        yield "architecture", _architecture(encoder["architecture"])
        yield "preprocessing", _pairs(encoder.get("preprocessing", {}))
    plain = {name: value for name, value in training.items() if not isinstance(value, dict | list)}
    if plain:
        yield "training", _pairs(plain)


def _graph_rows(graph: "OnnxGraphInfo", foreign: bool) -> Iterator[Row]:
    if foreign:  # of ours, the manifest says it, and with its ranges
        yield from _tensor_rows(graph.inputs, graph.outputs)
    yield "producer", graph.producer
    yield "IR version", str(graph.ir_version)
    yield "opsets", _pairs(graph.opsets)
    yield "parameters", _counts(graph.parameters)
    shown = ", ".join(f"{count} {name}" for name, count in islice(graph.operators.items(), OPERATORS))
    rest = len(graph.operators) - OPERATORS
    yield "operators", shown + (f" and {rest} kinds more" if rest > 0 else "")
    if graph.external:
        yield "external data", ", ".join(graph.external)
    yield from (("remark", remark) for remark in graph.remarks)


def _tensor_rows(inputs: "Iterable[TensorSpec]", outputs: "Iterable[TensorSpec]") -> Iterator[Row]:
    for what, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            yield what, f"{spec.name}  {spec.dtype} ({', '.join(map(str, spec.shape))})"


def _architecture(about: Mapping[str, Any]) -> str:
    name = about.get("name", "unknown")
    return f"{name}: {_pairs({key: about[key] for key in ('width', 'depth', 'heads', 'patch') if key in about})}"


def _range(allowed: "AxisRange") -> str:
    ends = f"{allowed.min} or more" if allowed.max is None else f"{allowed.min} to {allowed.max}"
    return ends if allowed.multiple_of == 1 else f"{ends}, in steps of {allowed.multiple_of}"


def _counts(parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in parameters.items()) or "none"


def _pairs(said: Mapping[str, Any]) -> str:
    """`size 224, mean 0.485 0.456 0.406`."""
    return ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in said.items()
    )
