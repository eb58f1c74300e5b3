"""Conversion of an ONNX graph into a TensorRT network, with a readable problem for every node that is rejected."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gtsa_kit.export.formats.onnx_graph import DYNAMIC_QUANTIZATION, ONNX_DOMAINS, layer_of
from gtsa_kit.export.runtime.profile import Shape
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

RESIZE_HINT: Final = "gtsa export writes a graph without Resize from the same weights; give them as SOURCE"
DYNAMIC_HINT: Final = "quantize with calibrated ranges: gtsa export --precision int8 --calibrate IMAGES"
ASYMMETRIC_HINT: Final = (
    "quantize symmetrically, int8 with zero points of 0: gtsa export --precision int8 --calibrate IMAGES"
)


@dataclass(frozen=True)
class ParseProblem:
    """Node that TensorRT rejects, and why."""

    node: str
    operator: str
    layer: str
    """Layer of the model that the node belongs to; "" if the file does not say."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Return operator, node, layer and message on one line."""
        layer = f" of {self.layer}" if self.layer else ""
        return f"{self.operator} {self.node!r}{layer}: {self.message}"


class EngineBuildError(RuntimeError):
    """Raised when TensorRT rejects a graph; `problems` holds every rejected node."""

    def __init__(self, name: str, problems: list[ParseProblem]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more nodes)" if len(problems) > 1 else ""
        hint = f"; {first.hint}" if first.hint else ""
        super().__init__(f"TensorRT rejects {name}: {first}{more}{hint}")
        self.problems = problems


def parse_network(variant: TensorRTVariant, builder: Any, logger: Any, model: "ModelProto", name: str) -> Any:
    """Convert an ONNX model into a strongly typed TensorRT network.

    Args:
        variant: The library.
        builder: The library's builder; it must outlive the network.
        logger: The library's logger.
        model: Model with its weights inside.
        name: Name of the model for error messages.

    Raises:
        EngineBuildError: TensorRT rejects at least one node.
    """
    network = builder.create_network(1 << int(variant.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = variant.library.OnnxParser(network, logger)
    if parser.parse(model.SerializeToString()):
        return network
    raise EngineBuildError(name, find_problems(model, [parser.get_error(i) for i in range(parser.num_errors)]))


def find_problems(model: "ModelProto", errors: list[Any]) -> list[ParseProblem]:
    """Return a problem for every node that TensorRT rejects, in the order of the graph.

    The parser stops at the first node that it can't convert, so nodes of the kinds that are known to be rejected are
    added to those that it names.
    """
    recognized = {index: _known_problem(node) for index, node in enumerate(model.graph.node)}
    problems = {index: problem for index, problem in recognized.items() if problem}
    for error in errors:
        index = error.node()
        if index in problems or not 0 <= index < len(model.graph.node):
            continue
        problems[index] = _problem(model.graph.node[index], _plain(error.desc()))
    if not problems:
        message = _plain(errors[0].desc()) if errors else "it gave no reason"
        return [ParseProblem("", "the file", "", message, "gtsa info shows what the file holds")]
    asymmetric = {index: _asymmetric(model, node) for index, node in enumerate(model.graph.node)}
    problems |= {index: problem for index, problem in asymmetric.items() if problem}
    return [problems[index] for index in sorted(problems)]


def _known_problem(node: "NodeProto") -> ParseProblem | None:
    if node.op_type == "Resize" and any(entry.name == "antialias" and entry.i for entry in node.attribute):
        return _problem(node, "an antialiased Resize, which TensorRT does not support", RESIZE_HINT)
    if node.op_type in DYNAMIC_QUANTIZATION:
        return _problem(
            node, "quantized with ranges computed at run time, which TensorRT does not support", DYNAMIC_HINT
        )
    if node.domain not in ONNX_DOMAINS:
        return _problem(node, f"an operator of {node.domain}, which TensorRT does not know")
    return None


def _asymmetric(model: "ModelProto", node: "NodeProto") -> ParseProblem | None:
    from onnx import numpy_helper

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return None
    zero_point = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[2]), None)
    if zero_point is None or not numpy_helper.to_array(zero_point).astype("float32").any():
        return None
    return _problem(node, "a zero point that is not 0", ASYMMETRIC_HINT)


def _problem(node: "NodeProto", message: str, hint: str = "") -> ParseProblem:
    name = node.name or (node.output[0] if node.output else "")
    return ParseProblem(name, node.op_type, layer_of(node), message, hint)


def _plain(text: str) -> str:
    """Return the first line without the parser's own condition: `(x == 0) && "Message."` becomes `Message.`"""
    first = text.strip().splitlines()[0] if text.strip() else "it gave no reason"
    _, separator, message = first.partition('&& "')
    if separator:
        return message.rstrip('"')
    return "it is not supported" if first == "false" else first


def tensors_of(network: Any) -> Iterator[tuple[str, Any, Shape]]:
    """Yield name, dtype and shape (-1 for a dynamic axis) of the inputs, then of the outputs."""
    for count, get in ((network.num_inputs, network.get_input), (network.num_outputs, network.get_output)):
        for index in range(count):
            tensor = get(index)
            yield tensor.name, tensor.dtype, tuple(tensor.shape)
