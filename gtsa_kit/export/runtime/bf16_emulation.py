"""Running bf16 graphs where there are no bf16 operators."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper

MOVES = {"Cast", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Constant"}
"""Operators that compute nothing; ONNX Runtime's CPU provider has them for bf16."""


def emulate_bfloat16(path: Path) -> bytes:
    """A bf16 graph with every bf16 operator computed in float32 and its result rounded to bf16 again.

    Rounding stays where the graph has it, so what is checked on a processor is what other hardware computes, up to the
    order of sums. ONNX Runtime treats fp16 in this way by itself, but has no such step for bf16.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    graph = model.graph
    half = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    half |= {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    nodes = [part for node in graph.node for part in _widen(node, half)]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _widen(node: onnx.NodeProto, half: set[str]) -> Iterator[onnx.NodeProto]:
    names = [*node.input, *node.output]
    if node.op_type in MOVES or not half.intersection(names):
        yield node
        return
    wide = {name: f"{name}__wide_{node.output[0]}" for name in names if name in half}
    for name in dict.fromkeys(node.input):
        if name in half:
            yield helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT)
    computed = onnx.NodeProto()
    computed.CopyFrom(node)
    computed.input[:] = [wide.get(name, name) for name in node.input]
    computed.output[:] = [wide.get(name, name) for name in node.output]
    yield computed
    for name in node.output:
        if name in half:
            yield helper.make_node("Cast", [wide[name]], [name], to=TensorProto.BFLOAT16)
