"""Checks of an engine that need no GPU: its header, its manifest, and the graph that it was built from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gtsa_kit.export.layout import CHANNELS
from gtsa_kit.export.manifest import Manifest, graph_path
from gtsa_kit.export.manifest_records import EngineRecord
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.parity_report import ParityReport
from gtsa_kit.export.runtime.engine_header import EngineHeader, missing_from_engine, read_header
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.tensorrt_variant import VARIANT_INSTALL, cannot_run, import_variant, is_installed
from gtsa_kit.export.self_check import Check
from gtsa_kit.export.source import Source
from gtsa_kit.export.tensorrt.source_graph import SourceGraph, read_graph_file
from gtsa_kit.files import sha256_of


@dataclass(frozen=True)
class CheckReport:
    """Results of all checks of an engine."""

    checks: tuple[Check, ...]
    parity: ParityReport | None
    """Parity of the graph in ONNX Runtime; None where it was not run."""
    not_checked: str
    """Checks that only a GPU could add, and why they were not run; "" if there are none."""

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks) and (self.parity is None or self.parity.passed)


def check_engine(
    path: Path,
    manifest: Manifest,
    source: Source | None,
    images: ParityImages,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> CheckReport:
    """Run every check that needs no GPU, and the parity gate of the graph.

    Args:
        path: Engine file.
        manifest: Manifest of the engine.
        source: Float32 encoder; None for the graph of another tool, which has none to compare with.
        images: Images for the parity gate.
        on_case: Called by the gate with (cases done, all cases).

    Raises:
        ValueError: The file is not an engine, or is truncated.
    """
    engine = manifest.engine
    if engine is None:
        raise ValueError(f"{path}.json is the manifest of a {manifest.format} file, not of an engine; export it again")
    header = read_header(path)
    checks = [*_engine_checks(path, header, manifest, engine)]
    graph = graph_path(path)
    checks += _graph_checks(graph, manifest, engine)
    parity = None
    if graph.exists() and source is not None:
        parity = check_parity(source.model, load(graph, "cpu"), images, on_case)
    return CheckReport(tuple(checks), parity, _not_checked(engine))


def _engine_checks(path: Path, header: EngineHeader, manifest: Manifest, engine: EngineRecord) -> Iterator[Check]:
    same = (header.variant, header.version) == (engine.variant, engine.version)
    message = f"{header.variant} {header.version}"
    yield Check(
        "header", same, message if same else f"{message}, but the manifest says {engine.variant} {engine.version}"
    )
    yield _check_installed(header)
    intact = sha256_of(path) == manifest.content_sha256
    yield Check("hash", intact, "sha256 is that of the manifest" if intact else "sha256 differs from the manifest")
    capabilities = header.capabilities or engine.capabilities
    same = set(capabilities) == set(engine.capabilities)
    message = f"for compute capabilities {', '.join(capabilities)}"
    yield Check("GPUs", same, message if same else f"{message}, but the manifest says {', '.join(engine.capabilities)}")
    missing = missing_from_engine(path.read_bytes(), (*manifest.inputs, *manifest.outputs), engine.profile)
    missing += _wrong_axes(manifest, engine)
    shapes = " / ".join("x".join(map(str, shape)) for shape in engine.profile)
    message = f"{len(manifest.outputs)} outputs" + (f"; profile {shapes}" if shapes else "; one shape")
    yield Check("tensors", not missing, message if not missing else f"differ from the manifest: {', '.join(missing)}")


def _check_installed(header: EngineHeader) -> Check:
    if not is_installed(header.variant):
        return Check(
            "installed",
            True,
            f"{header.variant} is not installed, so it can't run here; {VARIANT_INSTALL[header.variant]}",
        )
    installed = import_variant(header.variant).version
    if installed == header.version:
        return Check("installed", True, f"{header.variant} {installed}, the same version")
    return Check(
        "installed", False, f"{header.variant} {installed}, which runs only engines of that version; export it again"
    )


def _wrong_axes(manifest: Manifest, engine: EngineRecord) -> list[str]:
    """Return the axes whose range in the manifest differs from the profile."""
    if not engine.profile:
        return []
    min_shape, _, max_shape = engine.profile
    wrong = []
    for index, axis in enumerate(manifest.input_axes):
        if axis != CHANNELS and (min_shape[index], max_shape[index]) != (
            manifest.range_of(axis).min,
            manifest.range_of(axis).max,
        ):
            wrong.append(f"the range of {axis}")
    return wrong


def _graph_checks(path: Path, manifest: Manifest, engine: EngineRecord) -> Iterator[Check]:
    if not path.exists():
        yield Check("graph", True, f"not checked: {path.name} is not beside the engine")
        return
    graph = read_graph_file(path, manifest.layout)
    same = graph.sha256 == engine.graph.sha256
    yield Check(
        "graph",
        same,
        f"the engine was built from {path.name}"
        if same
        else f"the engine was built from another file than {path.name}",
    )
    wrong = [*_disagreements(manifest, graph)]
    message = "agree with the graph" if not wrong else f"disagree with the graph: {', '.join(wrong)}"
    yield Check("manifest", not wrong, f"its tensors, model and preprocessing {message}")


def _disagreements(manifest: Manifest, graph: SourceGraph) -> Iterator[str]:
    """Yield the entries of an engine's manifest that differ from its graph."""
    engine_tensors = [(s.name, s.dtype, _fixed_lengths(s.shape)) for s in (*manifest.inputs, *manifest.outputs)]
    graph_tensors = [(s.name, s.dtype, _fixed_lengths(s.shape)) for s in (*graph.inputs, *graph.outputs)]
    if engine_tensors != graph_tensors:
        yield "tensors"
    if graph.manifest is None:
        return
    precision = "fp32" if manifest.precision == "tf32" else manifest.precision
    if precision != graph.manifest.precision:
        yield f"precision {manifest.precision} instead of {graph.manifest.precision}"
    for name in ("source_sha256", "architecture", "dim", "preprocessing"):
        if getattr(manifest, name) != getattr(graph.manifest, name):
            yield name
    if manifest.engine and manifest.engine.graph.parity != graph.manifest.parity:
        yield "the parity of the graph"


def _fixed_lengths(shape: tuple[int | str, ...]) -> tuple[int | None, ...]:
    """Return the shape with None for dynamic axes, whose names may differ."""
    return tuple(length if isinstance(length, int) else None for length in shape)


def _not_checked(engine: EngineRecord) -> str:
    reason = cannot_run(engine)
    if not reason:
        return ""
    return (
        f"{reason.removeprefix('not run: ')}: the engine itself was not run; on a GPU of compute capability "
        f"{', '.join(engine.capabilities)}, gtsa verify also runs it and compares its outputs with the float32 encoder"
    )
