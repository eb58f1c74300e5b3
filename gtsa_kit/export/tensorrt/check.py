"""What can be known of an engine where there is no GPU: its header, its manifest, the graph that it was built from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gtsa_kit.export.manifest import EngineRecord, Manifest, ParityReport, graph_path
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime.engine_header import EngineHeader, missing_from_engine, read_header
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.tensorrt_variant import INSTALL, cannot_run, import_variant, is_installed
from gtsa_kit.export.source import Source
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file
from gtsa_kit.files import sha256_of


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    good: bool
    said: str


@dataclass(frozen=True)
class CheckReport:
    """All that was looked at; `parity` is of the graph, in ONNX Runtime."""

    findings: tuple[Check, ...]
    parity: ParityReport | None
    left: str
    """What a GPU would add; "" where nothing is left."""

    @property
    def passed(self) -> bool:
        """Whether everything that was looked at is as it should be."""
        return all(finding.good for finding in self.findings) and (self.parity is None or self.parity.passed)


def check_engine(
    path: Path,
    manifest: Manifest,
    source: Source | None,
    images: ParityImages,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> CheckReport:
    """Look at everything that needs no GPU, and run the gate of the graph anew.

    Args:
        path: Of the plan.
        manifest: Its own.
        source: The float32 encoder; None for a graph of another tool, which has none to compare with.
        images: Images for the gate.
        on_case: Told (cases done, cases in all) by the gate.

    Raises:
        ValueError: Not an engine, or cut off.
    """
    engine = manifest.engine
    if engine is None:
        raise ValueError(f"{path}.json is the manifest of a {manifest.format} file, not of an engine; export it again")
    header = read_header(path)
    findings = [*_of_the_plan(path, header, manifest, engine)]
    graph = graph_path(path)
    findings += _of_the_graph(graph, manifest, engine)
    parity = None
    if graph.exists() and source is not None:
        parity = check_parity(source.encoder, load(graph, "cpu"), images, on_case)
    return CheckReport(tuple(findings), parity, _left(engine))


def _of_the_plan(path: Path, header: EngineHeader, manifest: Manifest, engine: EngineRecord) -> Iterator[Check]:
    same = (header.variant, header.version) == (engine.variant, engine.version)
    said = f"{header.variant} {header.version}"
    yield Check("header", same, said if same else f"{said}, and the manifest says {engine.variant} {engine.version}")
    yield _installed(header)
    intact = sha256_of(path) == engine.sha256
    yield Check(
        "plan", intact, "is the one of the manifest" if intact else "is another than the manifest's: its sha256 differs"
    )
    able = header.capabilities or engine.capabilities
    same = set(able) == set(engine.capabilities)
    said = f"for compute capabilities {', '.join(able)}"
    yield Check("GPUs", same, said if same else f"{said}, and the manifest says {', '.join(engine.capabilities)}")
    missing = missing_from_engine(path.read_bytes(), (*manifest.inputs, *manifest.outputs), engine.profile)
    missing += _against_axes(manifest, engine)
    shapes = " / ".join("x".join(map(str, shape)) for shape in engine.profile)
    good = f"{len(manifest.outputs)} outputs" + (f"; profile {shapes}" if shapes else "; one shape")
    yield Check("tensors", not missing, good if not missing else f"not as the manifest says: {', '.join(missing)}")


def _installed(header: EngineHeader) -> Check:
    if not is_installed(header.variant):
        return Check(
            "installed", True, f"{header.variant} is not, so nothing here could run it; {INSTALL[header.variant]}"
        )
    here = import_variant(header.variant).version
    if here == header.version:
        return Check("installed", True, f"{header.variant} {here}, the same")
    return Check(
        "installed", False, f"{header.variant} {here}, which runs engines of that version alone; export it again"
    )


def _against_axes(manifest: Manifest, engine: EngineRecord) -> list[str]:
    """Axes whose ends in the manifest are not those of the profile."""
    if not engine.profile:
        return []
    smallest, _, largest = engine.profile
    wrong = []
    for index, axis in enumerate(manifest.input_layout):
        if axis != "3" and (smallest[index], largest[index]) != (
            manifest.range_of(axis).min,
            manifest.range_of(axis).max,
        ):
            wrong.append(f"the range of {axis}")
    return wrong


def _of_the_graph(path: Path, manifest: Manifest, engine: EngineRecord) -> Iterator[Check]:
    if not path.exists():
        yield Check("graph", False, f"{path.name} is not beside it; copy it too, or export it again")
        return
    graph = read_graph_file(path)
    same = graph.sha256 == engine.graph.sha256
    yield Check(
        "graph",
        same,
        f"{path.name} is the one that it was built from" if same else f"{path.name} is another than it was built from",
    )
    wrong = [*_against_graph(manifest, graph)]
    said = "agree with the graph" if not wrong else f"disagree with the graph: {', '.join(wrong)}"
    yield Check("manifest", not wrong, f"its tensors, model and preprocessing {said}")


def _against_graph(manifest: Manifest, graph: SourceGraph) -> Iterator[str]:
    """What an engine's manifest says otherwise than its graph does."""
    ours = [(spec.name, spec.dtype, _numbers(spec.shape)) for spec in (*manifest.inputs, *manifest.outputs)]
    theirs = [(spec.name, spec.dtype, _numbers(spec.shape)) for spec in (*graph.inputs, *graph.outputs)]
    if ours != theirs:
        yield "tensors"
    if graph.manifest is None:
        return
    precision = "fp32" if manifest.precision == "tf32" else manifest.precision
    if precision != graph.manifest.precision:
        yield f"precision {manifest.precision} for {graph.manifest.precision}"
    for name in ("source_sha256", "architecture", "dim", "preprocessing"):
        if getattr(manifest, name) != getattr(graph.manifest, name):
            yield name
    if manifest.engine and manifest.engine.graph.parity != graph.manifest.parity:
        yield "the parity of the graph"


def _numbers(shape: tuple[int | str, ...]) -> tuple[int | None, ...]:
    """Dynamic axes have names, which differ."""
    return tuple(length if isinstance(length, int) else None for length in shape)


def _left(engine: EngineRecord) -> str:
    why = cannot_run(engine)
    if not why:
        return ""
    return (
        f"{why.removeprefix('not run: ')}: the engine itself was not run; on a GPU of compute capability "
        f"{', '.join(engine.capabilities)}, gtsa verify also runs it and compares its outputs with the float32 encoder"
    )
