"""Nodes that TensorRT rejects, found in a graph, in the graphs inside its nodes and in its functions."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gtsa_kit.export.formats.onnx_graph import DYNAMIC_QUANTIZATION, ONNX_DOMAINS, layer_of

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

RESIZE_HINT: Final = "gtsa export writes a graph without Resize from the same weights; give them as SOURCE"
DYNAMIC_HINT: Final = "quantize with calibrated ranges: gtsa export --precision int8 --calibrate IMAGES"
ASYMMETRIC_HINT: Final = (
    "quantize symmetrically, int8 with zero points of 0: gtsa export --precision int8 --calibrate IMAGES"
)
Functions = Mapping[tuple[str, str], "FunctionProto"]
"""Functions of a model by domain and name."""


@dataclass(frozen=True)
class ParseProblem:
    """Node that TensorRT rejects, and why."""

    node: str
    operator: str
    layer: str
    """Layer of the model that the node belongs to; "" if the file does not say."""
    message: str
    hint: str = ""
    inside: str = ""
    """Function or branch that holds the node, such as "function Up of 'call'"; "" for a node of the graph itself."""

    def __str__(self) -> str:
        """Return operator, node, layer and message on one line."""
        layer = f" of {self.layer}" if self.layer else ""
        inside = f" in {self.inside}" if self.inside else ""
        return f"{self.operator} {self.node!r}{inside}{layer}: {self.message}"


@dataclass(frozen=True)
class LocatedNode:
    """Node with its place in a model."""

    node: "NodeProto"
    inside: tuple[str, ...] = ()
    """Functions and branches around the node, the outermost first."""
    layer: str = ""
    """Layer of the outermost node that names one."""
    constants: Mapping[str, "TensorProto"] = field(default_factory=dict)
    """Constants that the node can refer to, by name."""

    @property
    def name(self) -> str:
        """Name of the node, or of its first output."""
        return self.node.name or (self.node.output[0] if self.node.output else "")

    def problem(self, message: str, hint: str = "") -> ParseProblem:
        """Return a problem of this node."""
        inside = " in ".join(reversed(self.inside))
        return ParseProblem(self.name, self.node.op_type, layer_of(self.node) or self.layer, message, hint, inside)


def find_problems(model: "ModelProto", errors: list[Any]) -> list[ParseProblem]:
    """Return a problem for every node that TensorRT rejects, in the order of the graph.

    The parser stops at the first node that it can't convert, so nodes of the kinds that are known to be rejected are
    added to those that it names.

    Args:
        model: The model.
        errors: Errors of the parser.
    """
    nodes = list(locate_nodes(model))
    functions = {(function.domain, function.name): function for function in model.functions}
    problems = {index: problem for index, one in enumerate(nodes) if (problem := _known_problem(one, functions))}
    for error in errors:
        index = _position(nodes, error)
        if index is not None and index not in problems:
            problems[index] = nodes[index].problem(_plain(error.desc()))
    if not problems:
        message = _plain(errors[0].desc()) if errors else "it gave no reason"
        return [ParseProblem("", "the file", "", message, "gtsa info shows what the file holds")]
    asymmetric = {index: problem for index, one in enumerate(nodes) if (problem := _asymmetric(one))}
    problems |= asymmetric
    return [problems[index] for index in sorted(problems)]


def locate_nodes(model: "ModelProto") -> Iterator[LocatedNode]:
    """Iterate over all nodes, each followed by those of its branches and of the function that it calls.

    The nodes of a function appear once, at its first call.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    seen: set[tuple[str, str]] = set()
    yield from _locate(
        model.graph.node, LocatedNode(model.graph.node[0], (), "", _constants(model.graph)), functions, seen
    )


def _locate(
    nodes: "Iterable[NodeProto]", around: LocatedNode, functions: Functions, seen: set[tuple[str, str]]
) -> Iterator[LocatedNode]:
    for node in nodes:
        located = LocatedNode(node, around.inside, layer_of(node) or around.layer, around.constants)
        yield located
        for entry in node.attribute:
            for graph in [entry.g] if entry.HasField("g") else list(entry.graphs):
                inside = (*around.inside, f"{entry.name} of {located.name!r}")
                constants = {**around.constants, **_constants(graph)}
                yield from _locate(graph.node, LocatedNode(node, inside, located.layer, constants), functions, seen)
        called = (node.domain, node.op_type)
        if called in functions and called not in seen:
            seen.add(called)
            inside = (*around.inside, f"function {node.op_type} of {located.name!r}")
            body = functions[called].node
            yield from _locate(body, LocatedNode(node, inside, located.layer, _constant_nodes(body)), functions, seen)


def _constants(graph: "GraphProto") -> dict[str, "TensorProto"]:
    return {**{tensor.name: tensor for tensor in graph.initializer}, **_constant_nodes(graph.node)}


def _constant_nodes(nodes: "Iterable[NodeProto]") -> dict[str, "TensorProto"]:
    constants = [node for node in nodes if node.op_type == "Constant" and node.attribute[0].HasField("t")]
    return {node.output[0]: node.attribute[0].t for node in constants}


def _position(nodes: list[LocatedNode], error: Any) -> int | None:
    """Return the index of the node that an error of the parser names; it numbers the nodes of the innermost graph."""
    depth, name, operator = len(error.local_function_stack()), error.node_name(), error.node_operator()
    matching = [
        index
        for index, one in enumerate(nodes)
        if one.node.op_type == operator and name in (one.name, one.node.name) and bool(one.inside) == bool(depth)
    ]
    return matching[0] if matching else None


def _known_problem(located: LocatedNode, functions: Functions) -> ParseProblem | None:
    node = located.node
    if node.op_type == "Resize" and any(entry.name == "antialias" and entry.i for entry in node.attribute):
        return located.problem("an antialiased Resize, which TensorRT does not support", RESIZE_HINT)
    if node.op_type in DYNAMIC_QUANTIZATION:
        return located.problem(
            "quantized with ranges computed at run time, which TensorRT does not support", DYNAMIC_HINT
        )
    if node.domain not in ONNX_DOMAINS and (node.domain, node.op_type) not in functions:
        return located.problem(f"an operator of {node.domain}, which TensorRT does not know")
    return None


def _asymmetric(located: LocatedNode) -> ParseProblem | None:
    from onnx import numpy_helper

    node = located.node
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return None
    zero_point = located.constants.get(node.input[2])
    if zero_point is None or not numpy_helper.to_array(zero_point).astype("float32").any():
        return None
    return located.problem("a zero point that is not 0", ASYMMETRIC_HINT)


def _plain(text: str) -> str:
    """Return the first line without the parser's own condition: `(x == 0) && "Message."` becomes `Message.`

    An operator that the parser does not know is looked for among plugins, which its message is about.
    """
    if "lugin" in text and "not found" in text:
        return "TensorRT does not have this operator"
    first = text.strip().splitlines()[0] if text.strip() else "it gave no reason"
    _, separator, message = first.partition('&& "')
    if separator:
        return message.rstrip('"')
    return "it is not supported" if first == "false" else first
