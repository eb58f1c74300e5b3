"""An ONNX graph to a TensorRT network, and what TensorRT says against one in words that help."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gtsa_kit.export.formats.onnx_graph import DYNAMIC_QUANTIZATION, OWN_DOMAINS, layer_of
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OUT_OF_RESIZE: Final = "gtsa export writes a graph without Resize from the same weights; name them as SOURCE"
OUT_OF_DYNAMIC: Final = "quantize with ranges set beforehand: gtsa export --precision int8 --calibrate IMAGES"
OUT_OF_ASYMMETRIC: Final = (
    "quantize symmetrically, int8 with zero points 0: gtsa export --precision int8 --calibrate IMAGES"
)


@dataclass(frozen=True)
class ParseProblem:
    """A node that TensorRT does not take."""

    node: str
    operator: str
    layer: str
    """The layer of the model that it came from, as far as the file says."""
    said: str
    """What is wrong with it."""
    way_out: str = ""

    def __str__(self) -> str:
        """On one line."""
        where = f" of {self.layer}" if self.layer else ""
        return f"{self.operator} {self.node!r}{where}: {self.said}"


class EngineBuildError(RuntimeError):
    """A graph that TensorRT does not take, with every node that is to blame."""

    def __init__(self, name: str, problems: list[ParseProblem]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} nodes more)" if len(problems) > 1 else ""
        super().__init__(f"TensorRT does not take {name}: {first}{more}" + (f"; {first.way_out}" * bool(first.way_out)))
        self.problems = problems


def parse_network(variant: TensorRTVariant, builder: Any, logger: Any, model: "ModelProto", name: str) -> Any:
    """The network of a graph.

    Args:
        variant: What parses.
        builder: Of the variant; it must outlive the network.
        logger: Of the variant.
        model: Whole, with its weights inside.
        name: For messages.

    Raises:
        Unbuildable: With every node that TensorRT refuses.
    """
    network = builder.create_network(1 << int(variant.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = variant.library.OnnxParser(network, logger)
    if parser.parse(model.SerializeToString()):
        return network
    raise EngineBuildError(name, find_problems(model, [parser.get_error(i) for i in range(parser.num_errors)]))


def find_problems(model: "ModelProto", errors: list[Any]) -> list[ParseProblem]:
    """What the parser said, in our words where we have some, and what it would have said next; in the graph's order.

    The parser stops at the first node that it can't build, so nodes of the kinds known to be refused are added.
    """
    found = {index: _in_our_words(node) for index, node in enumerate(model.graph.node)}
    problems = {index: problem for index, problem in found.items() if problem}
    for error in errors:
        index = error.node()
        if index in problems or not 0 <= index < len(model.graph.node):
            continue
        problems[index] = _problem(model.graph.node[index], _plain(error.desc()))
    if not problems:
        said = _plain(errors[0].desc()) if errors else "it gave no reason"
        return [ParseProblem("", "the file", "", said, "see what it is with gtsa info")]
    asymmetric = {index: _asymmetric(model, node) for index, node in enumerate(model.graph.node)}
    problems |= {index: problem for index, problem in asymmetric.items() if problem}
    return [problems[index] for index in sorted(problems)]


def _in_our_words(node: "NodeProto") -> ParseProblem | None:
    if node.op_type == "Resize" and any(said.name == "antialias" and said.i for said in node.attribute):
        return _problem(node, "an antialiased Resize, which TensorRT does not have", OUT_OF_RESIZE)
    if node.op_type in DYNAMIC_QUANTIZATION:
        return _problem(node, "quantized with ranges found as it runs, which TensorRT does not do", OUT_OF_DYNAMIC)
    if node.domain not in OWN_DOMAINS:
        return _problem(node, f"an operator of {node.domain}, which TensorRT does not know")
    return None


def _asymmetric(model: "ModelProto", node: "NodeProto") -> ParseProblem | None:
    from onnx import numpy_helper

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return None
    zero = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[2]), None)
    if zero is None or not numpy_helper.to_array(zero).astype("float32").any():
        return None
    return _problem(node, "a zero point that is not 0", OUT_OF_ASYMMETRIC)


def _problem(node: "NodeProto", said: str, way_out: str = "") -> ParseProblem:
    return ParseProblem(
        node.name or (node.output[0] if node.output else ""), node.op_type, layer_of(node), said, way_out
    )


def _plain(text: str) -> str:
    """The first line, without the parser's own condition in front: `(x == 0) && "Said."` to `Said.`"""
    first = text.strip().splitlines()[0] if text.strip() else "it gave no reason"
    _, found, said = first.partition('&& "')
    return said.rstrip('"') if found else "it is not supported" if first == "false" else first


def tensors_of(network: Any) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Name, type and shape (-1 is dynamic) of the inputs, then of the outputs."""
    for count, get in ((network.num_inputs, network.get_input), (network.num_outputs, network.get_output)):
        for index in range(count):
            tensor = get(index)
            yield tensor.name, tensor.dtype, tuple(tensor.shape)
