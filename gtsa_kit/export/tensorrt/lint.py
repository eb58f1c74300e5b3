"""Dry run: a build without a GPU that checks whether TensorRT accepts a graph; the engine is discarded."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from gtsa_kit.export.runtime.engine_header import parse_header
from gtsa_kit.export.runtime.profile import Shape, make_profile
from gtsa_kit.export.tensorrt.build import OnStep, build_engine
from gtsa_kit.export.tensorrt.engine import EngineRequest
from gtsa_kit.export.tensorrt.network import EngineBuildError
from gtsa_kit.export.tensorrt.problems import ParseProblem
from gtsa_kit.export.tensorrt.source_graph import SourceGraph


@dataclass(frozen=True)
class LintReport:
    """Result of a dry run."""

    problems: tuple[ParseProblem, ...]
    """Every node that TensorRT rejects; () if the engine was built."""
    size: int = 0
    """Size of the engine in bytes."""
    seconds: float = 0.0
    """Duration of the build."""
    capabilities: tuple[str, ...] = ()
    tensors: tuple[tuple[str, str, Shape], ...] = ()
    """Name, dtype and shape (-1 for a dynamic axis) of inputs and outputs."""


def lint(graph: SourceGraph, request: EngineRequest, on_step: OnStep = lambda *_: None) -> LintReport:
    """Parse and build a graph, and discard the engine.

    Raises:
        ValueError: The requested ranges do not fit the graph.
    """
    profile = make_profile(request.ranges, request.optimal, graph.default_side)
    graph.check_profile(profile)
    with tempfile.TemporaryDirectory(prefix="gtsa-lint-") as folder:
        log = Path(folder, "log")
        try:
            engine = build_engine(
                request.variant, graph.model, graph.path.name, profile, request.settings, log, on_step
            )
        except EngineBuildError as error:
            return LintReport(tuple(error.problems))
    header = parse_header(engine.content[:64], len(engine.content), graph.path)
    capabilities = header.capabilities or request.settings.capabilities
    return LintReport((), len(engine.content), engine.seconds, capabilities, engine.tensors)
