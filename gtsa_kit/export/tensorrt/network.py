"""Conversion of an ONNX graph into a TensorRT network, with a readable problem for every node that is rejected."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gtsa_kit.export.runtime.profile import Shape
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant
from gtsa_kit.export.tensorrt.problems import ParseProblem, find_problems

if TYPE_CHECKING:
    from onnx import ModelProto


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


def tensors_of(network: Any) -> Iterator[tuple[str, Any, Shape]]:
    """Yield name, dtype and shape (-1 for a dynamic axis) of the inputs, then of the outputs."""
    for count, get in ((network.num_inputs, network.get_input), (network.num_outputs, network.get_output)):
        for index in range(count):
            tensor = get(index)
            yield tensor.name, tensor.dtype, tuple(tensor.shape)
