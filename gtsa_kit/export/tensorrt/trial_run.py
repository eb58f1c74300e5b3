"""Trial runs of another tool's graph in ONNX Runtime, before an engine is built from it.

An axis that is dynamic by its name can be fixed by a constant of the graph, such as position embeddings for 224 pixels.
TensorRT builds such a graph for any range, and the engine fails when it runs.
"""

from typing import Any

import numpy as np

from gtsa_kit.export.layout import arrange
from gtsa_kit.export.runtime.profile import Profile
from gtsa_kit.export.tensorrt.source_graph import SourceGraph

Size = tuple[int, int]
"""Height and width in pixels."""


def find_rejected_size(graph: SourceGraph, profile: Profile) -> Size | None:
    """Return the first size of a profile at which a graph fails, or None.

    Graphs that do not run in ONNX Runtime at the default size either can't be judged, so the result is None.

    Args:
        graph: The graph.
        profile: The profile; its minimum batch is used.
    """
    session = _open_session(graph)
    if session is None:
        return None
    batch, default = profile.min[0], tuple(getattr(graph.ranges(), a).clamp(graph.default_side) for a in _SIDES)
    sizes = [size_of(graph, shape) for shape in (profile.min, profile.opt, profile.max)]
    if not _runs(session, graph, batch, default):
        return None
    return next((size for size in dict.fromkeys(sizes) if not _runs(session, graph, batch, size)), None)


_SIDES = ("height", "width")


def size_of(graph: SourceGraph, shape: tuple[int, ...]) -> Size:
    """Return the height and width in a shape of the input."""
    named = dict(zip(graph.axes, shape, strict=True))
    return named["height"], named["width"]


def _open_session(graph: SourceGraph) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are the point of a trial run
    try:
        return onnxruntime.InferenceSession(graph.model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:
        return None


def _runs(session: Any, graph: SourceGraph, batch: int, size: Size) -> bool:
    spec = graph.inputs[0]
    try:
        session.run(None, {spec.name: np.zeros(arrange(graph.layout, batch, *size, graph.channels), spec.dtype)})
    except Exception:
        return False
    return True
