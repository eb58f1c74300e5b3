"""Sharing the traces of equal graphs: one of any size takes seven seconds, and precisions differ in what follows."""

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from gtsa_kit.export.formats import onnx as onnx_format
from gtsa_kit.export.graph import dynamic_shapes, example_input
from gtsa_kit.export.spec import ExportOptions

_REGISTRIES = cache(ONNXRegistry.from_torchlib)
"""Translations of torch's operators by opset, which torch reads anew for each trace, a tenth of its time."""


class _Content(pickle.Pickler):
    """Pickler of a module that writes digests in place of tensors, whose own pickles contain addresses."""

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return type(value).__name__, value.dtype, tuple(value.shape), sha256(content).hexdigest()


def trace_key(graph: torch.nn.Module, options: ExportOptions) -> str:
    """Digest of all that a trace depends on: classes, attributes and tensors of the graph, its input, axes and opset.

    The code of the classes is not part of it: tests that replace code must not share traces.
    """
    written = io.BytesIO()
    _Content(written).dump(graph)
    axes = [(options.batch, options.height, options.width), sorted(dynamic_shapes(options)[0])]
    example = example_input(options)
    facts = [axes, tuple(example.shape), example.dtype, options.outputs, options.opset]
    return sha256(written.getvalue() + repr(facts).encode()).hexdigest()[:16]


@contextmanager
def shared_traces(once: Callable[[str, Callable[[Path], object]], Path]) -> Iterator[None]:
    """Let ONNX exports inside take the trace of an equal graph, if a test of this session has made it.

    Args:
        once: The fixture of that name.
    """
    trace = onnx_format._trace
    if trace.__name__ == "shared":  # of a fixture around this one
        yield
        return

    def shared(graph: Any, options: ExportOptions) -> onnx.ModelProto:
        folder = once(
            f"trace {trace_key(graph, options)}",
            lambda folder: onnx.save(trace(graph, options), folder / "graph.onnx"),
        )
        return onnx.load(folder / "graph.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_format, "_trace", shared)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(_REGISTRIES))
        yield
