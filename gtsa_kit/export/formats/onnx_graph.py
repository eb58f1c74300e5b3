"""What an ONNX graph says of itself, whoever wrote it."""

import ast
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.manifest import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

DYNAMIC_QUANTIZATION = frozenset(("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"))
OWN_DOMAINS = ("", "ai.onnx")
LAYER_KEY = "gtsa_kit_layer"
"""Under it a node's metadata say which layer of the model it came from."""


@dataclass(frozen=True)
class OnnxGraphInfo:
    """What an ONNX file holds."""

    producer: str
    ir_version: int
    opsets: dict[str, int]
    """By domain; ONNX's own is ai.onnx."""
    inputs: tuple[TensorSpec, ...]
    """A dimension without a name or a number is "?"."""
    outputs: tuple[TensorSpec, ...]
    parameters: dict[str, int]
    """How many numbers, by type; initializers and constants."""
    operators: dict[str, int]
    """How many of each, the most frequent first; those of other domains under domain::name."""
    external: tuple[str, ...]
    """Files beside it that hold weights."""
    remarks: tuple[str, ...]
    """What matters to whoever wants to run it."""


def read_graph_info(model: "ModelProto", folder: Path) -> OnnxGraphInfo:
    """Facts of a model that was read without its external data.

    Args:
        model: With a graph.
        folder: Where its external data would be.
    """
    nodes = list(_walk(model.graph.node))
    nodes += [node for function in model.functions for node in _walk(function.node)]
    tensors = [*model.graph.initializer, *_constants(nodes)]
    parameters: Counter[str] = Counter()
    for tensor in tensors:
        parameters[_type_name(tensor.data_type)] += math.prod(tensor.dims)
    stored = {tensor.name for tensor in model.graph.initializer}  # which old files list among the inputs
    inputs = tuple(_tensor_spec(value) for value in model.graph.input if value.name not in stored)
    external = tuple(sorted({entry.value for t in tensors for entry in t.external_data if entry.key == "location"}))
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
            *_remarks_on_nodes(nodes),
            *_remarks_on_weights(parameters),
            *_remarks_on_inputs(inputs),
            *(f"{name}, which holds weights, is missing" for name in external if not (folder / name).exists()),
        ),
    )


def layer_of(node: "NodeProto") -> str:
    """The layer of the model that a node came from: as our exporter notes it, else out of the node's own name."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == LAYER_KEY), None)
    if noted is not None:
        return str(noted)
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    with suppress(ValueError, SyntaxError):
        named = [scope for scope in ast.literal_eval(scopes) if scope]
        return str(named[-2]) if len(named) > 1 else ""  # the last is the operation itself
    parts = [part for part in node.name.split("/")[:-1] if part]
    return parts[-1] if parts else ""


def _remarks_on_nodes(nodes: "list[NodeProto]") -> Iterator[str]:
    resizes = [node for node in nodes if node.op_type == "Resize"]
    antialiased = sum(any(said.name == "antialias" and said.i for said in node.attribute) for node in resizes)
    if antialiased:
        yield f"{antialiased} antialiased Resize, which TensorRT refuses"
    elif resizes:
        yield f"{len(resizes)} Resize, none of them antialiased, which TensorRT takes"
    dynamic = sorted(DYNAMIC_QUANTIZATION.intersection(node.op_type for node in nodes))
    if dynamic:
        yield f"quantized as it runs ({', '.join(dynamic)}), which TensorRT refuses"
    elif any(node.op_type == "DequantizeLinear" for node in nodes):
        yield "quantized with Q/DQ nodes"
    others = sorted({node.domain for node in nodes}.difference(OWN_DOMAINS))
    if others:
        yield f"operators of {', '.join(others)}, which are not of ONNX itself"


def _remarks_on_weights(parameters: Counter[str]) -> Iterator[str]:
    for name, remark in (
        ("float16", "fp16 weights"),
        ("bfloat16", "bf16 weights, which ONNX Runtime does not compute with on a processor"),
        ("int8", "int8 weights"),
    ):
        if parameters[name]:
            yield remark


def _remarks_on_inputs(inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    if not any(isinstance(length, str) for spec in inputs for length in spec.shape):
        yield "no dynamic axes: it takes one shape and no other"


def _walk(nodes: "Iterable[NodeProto]") -> "Iterator[NodeProto]":
    """Nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for said in node.attribute:
            for graph in (said.g, *said.graphs):
                yield from _walk(graph.node)


def _constants(nodes: "list[NodeProto]") -> "Iterator[TensorProto]":
    """Tensors that nodes hold themselves."""
    for node in nodes:
        for said in node.attribute:
            if said.HasField("t"):
                yield said.t
            for graph in (said.g, *said.graphs):
                yield from graph.initializer


def _operator(node: "NodeProto") -> str:
    return node.op_type if node.domain in OWN_DOMAINS else f"{node.domain}::{node.op_type}"


def _tensor_spec(value: "ValueInfoProto") -> TensorSpec:
    """Sequences and the like have a kind in place of a type."""
    if value.type.WhichOneof("value") != "tensor_type":
        return TensorSpec(name=value.name, dtype=value.type.WhichOneof("value") or "unknown", shape=())
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=_type_name(tensor.elem_type), shape=shape)


def _type_name(number: int) -> str:
    from onnx import TensorProto

    name = str(TensorProto.DataType.Name(number)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
