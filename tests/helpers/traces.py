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
from torch._dynamo import config
from torch.onnx._internal.exporter._registration import ONNXRegistry

from gtsa_kit.export.formats import onnx as onnx_format
from gtsa_kit.export.formats import openvino as openvino_format
from gtsa_kit.export.graph import dynamic_shapes, example_input
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.export.task_graph import TaskGraph, build_graph

_REGISTRIES = cache(ONNXRegistry.from_torchlib)
"""Translations of torch's operators by opset, which torch reads anew for each trace, a tenth of its time."""
_PROGRAMS: dict[str, torch.export.ExportedProgram] = {}
"""Programs that were traced for OpenVINO in this process."""


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
    """Let exports to ONNX and OpenVINO inside take the trace of an equal graph, if a test of this session has made it.

    Args:
        once: The fixture of that name.
    """
    trace, program = onnx_format._trace, openvino_format._export_program
    if trace.__name__ == "shared":  # of a fixture around this one
        yield
        return

    def shared(graph: Any, options: ExportOptions) -> onnx.ModelProto:
        def fill(folder: Path) -> None:
            with config.patch(fake_tensor_cache_enabled=_caches_shapes(graph)):
                onnx.save(trace(graph, options), folder / "graph.onnx")

        return onnx.load(once(f"trace {trace_key(graph, options)}", fill) / "graph.onnx")

    def shared_program(model: Any, options: ExportOptions) -> torch.export.ExportedProgram:
        graph = build_graph(model, options, split_qkv=True)
        key = trace_key(graph, options)
        if key not in _PROGRAMS:
            with config.patch(fake_tensor_cache_enabled=_caches_shapes(graph)):
                _PROGRAMS[key] = program(model, options)
        return _PROGRAMS[key]

    with pytest.MonkeyPatch.context() as patch, translations_read_once():
        patch.setattr(onnx_format, "_trace", shared)
        patch.setattr(openvino_format, "_export_program", shared_program)
        yield


def _caches_shapes(graph: Any) -> bool:
    """Return whether torch's cache of the shapes of results pays: not for an encoder of one or two blocks."""
    return isinstance(graph, TaskGraph) or len(graph.blocks) > 2


@contextmanager
def translations_read_once() -> Iterator[None]:
    """Let torch read the translations of its operators for the first trace alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(_REGISTRIES))
        yield
