"""Facts about an ONNX graph of any tool."""

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.manifest_records import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

DYNAMIC_QUANTIZATION = frozenset(("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"))
ONNX_DOMAINS = ("", "ai.onnx")
"""Domains of the operators of ONNX itself."""
LAYER_KEY = "gtsa_kit_layer"
"""Key of a node's metadata that holds the layer of the model that the node came from."""


@dataclass(frozen=True)
class OnnxGraphInfo:
    """Facts about the graph of an ONNX file."""

    producer: str
    ir_version: int
    opsets: dict[str, int]
    """Opset versions by domain; that of ONNX itself is ai.onnx."""
    inputs: tuple[TensorSpec, ...]
    """Inputs of the graph; a dimension without a name or a number is "?"."""
    outputs: tuple[TensorSpec, ...]
    parameters: dict[str, int]
    """Number of parameters by dtype, in initializers and constants."""
    operators: dict[str, int]
    """Number of nodes by operator, the most frequent first; operators of other domains as domain::name."""
    external: tuple[str, ...]
    """Files beside the model that hold weights."""
    remarks: tuple[str, ...]
    """Remarks about running the graph, for display."""


def read_graph_info(model: "ModelProto", folder: Path) -> OnnxGraphInfo:
    """Read the facts about a model; its external data need not be loaded.

    Args:
        model: The model.
        folder: Folder of the model's external data.
    """
    nodes = list(_iter_nodes(model.graph.node))
    nodes += [node for function in model.functions for node in _iter_nodes(function.node)]
    tensors = [*model.graph.initializer, *_constants(nodes)]
    parameters: Counter[str] = Counter()
    for tensor in tensors:
        parameters[_type_name(tensor.data_type)] += math.prod(tensor.dims)
    # Old files list initializers among the inputs.
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor_spec(value) for value in model.graph.input if value.name not in initializers)
    external = external_files(model)
    return OnnxGraphInfo(
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        inputs=inputs,
        outputs=tuple(_tensor_spec(value) for value in model.graph.output),
        parameters=dict(parameters.most_common()),
        operators=dict(Counter(_operator(node) for node in nodes).most_common()),
        external=external,
        remarks=(
            *_remarks_on_nodes(nodes, {(function.domain, function.name) for function in model.functions}),
            *_remarks_on_weights(parameters),
            *_remarks_on_inputs(inputs),
            *(f"{name}, which holds weights, is missing" for name in external if not (folder / name).exists()),
        ),
    )


def external_files(model: "ModelProto") -> tuple[str, ...]:
    """Return the names of the files beside a model that hold its weights."""
    tensors = [*model.graph.initializer, *_constants(list(_iter_nodes(model.graph.node)))]
    return tuple(sorted({entry.value for t in tensors for entry in t.external_data if entry.key == "location"}))


def patch_steps(model: "ModelProto", lengths: Mapping[str, int | str]) -> dict[str, int]:
    """Return the step of height and width: the patch size of the graph, in pixels; 1 if the graph does not tell it.

    A dynamic axis that torch.export wrote is a product such as "14*rows". Otherwise a convolution of 3 colors whose
    stride equals its kernel cuts the image into patches.

    Args:
        model: The model.
        lengths: Lengths of the input's axes by name.
    """
    kernel = _patch_kernel(model)
    steps = {}
    for axis, side in zip(("height", "width"), kernel, strict=True):
        factor = re.search(r"(?:^|[^\w])(\d+)\s*\*|\*\s*(\d+)$", str(lengths[axis]))
        steps[axis] = int(factor[1] or factor[2]) if factor else side
    return steps


def _patch_kernel(model: "ModelProto") -> tuple[int, int]:
    """Return (height, width) of the first kernel that cuts images of 3 colors into patches, else (1, 1)."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {
        node.output[0]: tuple(node.attribute[0].t.dims) for node in model.graph.node if node.op_type == "Constant"
    }
    for node in _iter_nodes(model.graph.node):
        shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" and len(node.input) > 1 else ()
        strides = next((tuple(entry.ints) for entry in node.attribute if entry.name == "strides"), ())
        if len(shape) == 4 and shape[1] == 3 and shape[2:] == strides:
            return shape[2], shape[3]
    return 1, 1


def layer_of(node: "NodeProto") -> str:
    """Return the layer of the model that a node came from, or "".

    The name is in the metadata of gtsa-kit's graphs, in the metadata that torch writes, or part of the node's name.
    """
    layer = next((entry.value for entry in node.metadata_props if entry.key == LAYER_KEY), None)
    if layer is not None:
        return str(layer)
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    with suppress(ValueError, SyntaxError):
        names = [scope for scope in ast.literal_eval(scopes) if scope]
        return str(names[-2]) if len(names) > 1 else ""  # the last one is the operation itself
    parts = [part for part in node.name.split("/")[:-1] if part]
    return parts[-1] if parts else ""


def _remarks_on_nodes(nodes: "list[NodeProto]", functions: set[tuple[str, str]]) -> Iterator[str]:
    resizes = [node for node in nodes if node.op_type == "Resize"]
    antialiased = sum(any(a.name == "antialias" and a.i for a in node.attribute) for node in resizes)
    if antialiased:
        yield f"{antialiased} antialiased Resize, which TensorRT rejects"
    elif resizes:
        yield f"{len(resizes)} Resize, none of them antialiased, which TensorRT supports"
    dynamic = sorted(DYNAMIC_QUANTIZATION.intersection(node.op_type for node in nodes))
    if dynamic:
        yield f"dynamic quantization ({', '.join(dynamic)}), which TensorRT rejects"
    elif any(node.op_type == "DequantizeLinear" for node in nodes):
        yield "quantized with Q/DQ nodes"
    foreign = {node.domain for node in nodes if (node.domain, node.op_type) not in functions}
    others = sorted(foreign.difference(ONNX_DOMAINS))
    if others:
        yield f"operators of {', '.join(others)}, which are not part of ONNX"


def _remarks_on_weights(parameters: Counter[str]) -> Iterator[str]:
    for name, remark in (
        ("float16", "fp16 weights"),
        ("bfloat16", "bf16 weights, which ONNX Runtime does not compute with on a CPU"),
        ("int8", "int8 weights"),
    ):
        if parameters[name]:
            yield remark


def _remarks_on_inputs(inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    if not any(isinstance(length, str) for spec in inputs for length in spec.shape):
        yield "no dynamic axes: the graph takes one shape alone"


def _iter_nodes(nodes: "Iterable[NodeProto]") -> "Iterator[NodeProto]":
    """Iterate over nodes and the nodes of graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _iter_nodes(graph.node)


def _constants(nodes: "list[NodeProto]") -> "Iterator[TensorProto]":
    """Iterate over the tensors inside nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer


def _operator(node: "NodeProto") -> str:
    return node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.op_type}"


def _tensor_spec(value: "ValueInfoProto") -> TensorSpec:
    """Describe an input or output; for a sequence or another non-tensor, dtype is its kind."""
    if value.type.WhichOneof("value") != "tensor_type":
        return TensorSpec(name=value.name, dtype=value.type.WhichOneof("value") or "unknown", shape=())
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=_type_name(tensor.elem_type), shape=shape)


def _type_name(number: int) -> str:
    from onnx import TensorProto

    name = str(TensorProto.DataType.Name(number)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
