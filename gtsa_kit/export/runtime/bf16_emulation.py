"""Emulation of bf16 operators, which ONNX Runtime's CPU provider does not have."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper

DATA_MOVEMENT = {"Cast", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Constant"}
"""Operators without arithmetic; ONNX Runtime's CPU provider has them for bf16."""


def emulate_bfloat16(path: Path) -> bytes:
    """Return a graph in which every bf16 operator runs in float32 and its result is rounded to bf16.

    Results are rounded where the bf16 graph rounds them, so a CPU computes what other hardware computes, up to the
    order of sums. ONNX Runtime itself does the same for fp16, but not for bf16.

    Args:
        path: ONNX file.

    Returns:
        The serialized model.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    graph = model.graph
    bf16 = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    bf16 |= {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    nodes = [part for node in graph.node for part in _compute_in_float32(node, bf16)]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _compute_in_float32(node: onnx.NodeProto, bf16: set[str]) -> Iterator[onnx.NodeProto]:
    names = [*node.input, *node.output]
    if node.op_type in DATA_MOVEMENT or not bf16.intersection(names):
        yield node
        return
    wide = {name: f"{name}__wide_{node.output[0]}" for name in names if name in bf16}
    for name in dict.fromkeys(node.input):
        if name in bf16:
            yield helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT)
    computed = onnx.NodeProto()
    computed.CopyFrom(node)
    computed.input[:] = [wide.get(name, name) for name in node.input]
    computed.output[:] = [wide.get(name, name) for name in node.output]
    yield computed
    for name in node.output:
        if name in bf16:
            yield helper.make_node("Cast", [wide[name]], [name], to=TensorProto.BFLOAT16)
