"""A dry run: does TensorRT take this graph? In seconds, with no GPU, and nothing of it stays."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from gtsa_kit.export.runtime.engine_header import parse_header
from gtsa_kit.export.runtime.profile import make_profile
from gtsa_kit.export.tensorrt.build import OnStep, build_engine
from gtsa_kit.export.tensorrt.engine import EngineRequest
from gtsa_kit.export.tensorrt.network import EngineBuildError, ParseProblem
from gtsa_kit.export.tensorrt.source_graph import SourceGraph


@dataclass(frozen=True)
class Lint:
    """What a dry run found."""

    problems: tuple[ParseProblem, ...]
    """Every node that TensorRT refuses; () if it built."""
    size: int = 0
    """Bytes of the plan."""
    seconds: float = 0.0
    capabilities: tuple[str, ...] = ()
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


def lint(graph: SourceGraph, order: EngineRequest, on_step: OnStep = lambda *_: None) -> Lint:
    """Parse and build a graph, and forget the plan.

    Raises:
        ValueError: The ranges do not suit the graph.
    """
    profile = make_profile(order.ranges, order.usual, graph.base)
    graph.check_profile(profile)
    with tempfile.TemporaryDirectory(prefix="gtsa-lint-") as folder:
        log = Path(folder, "log")
        try:
            plan = build_engine(order.variant, graph.model, graph.path.name, profile, order.settings, log, on_step)
        except EngineBuildError as error:
            return Lint(tuple(error.problems))
    header = parse_header(plan.content[:64], len(plan.content), graph.path)
    capabilities = header.capabilities or order.settings.capabilities
    return Lint((), len(plan.content), plan.seconds, capabilities, plan.tensors)
