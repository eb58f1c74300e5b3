"""Tensors of an ONNX file of another tool by the names of the model that it was exported from; nothing is executed.

PyTorch's exporters rename and transpose the weights of linear layers, cut position embeddings in two, and store equal
tensors once. The graph around a tensor gives its name back.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MAX_BYTES: Final = 2**31
"""Maximum size of the file: that of a protobuf message, since weights outside of the file are refused."""
FLOATS: Final = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
"""Types of weights, by ONNX's names; tensors of other types hold shapes and indices."""
RESAMPLING: Final = ("Reshape", "Transpose", "Cast", "Resize", "Unsqueeze", "Squeeze", "Identity")
"""Operators between stored position embeddings and those of the grid of an image."""
MAX_STEPS: Final = 16
"""Maximum number of these operators in a row."""
POSITION_NAMES: Final = {"embeddings.cls_token": "embeddings.position_embeddings", "cls_token": "pos_embed"}
"""Names of class tokens and of the position embeddings beside them: those of transformers and those of timm."""


def read_onnx_tensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of an ONNX file on the CPU.

    Raises:
        ValueError: The file is no ONNX file, is too large, keeps weights outside of itself, or has a damaged tensor.
    """
    graph = _read(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer if _is_float(tensor)}
    tensors = {name: _to_torch(tensor, path) for name, tensor in stored.items()}
    for node in graph.node:  # equal tensors are stored once
        for source, copy in zip(node.input, node.output, strict=False) if node.op_type == "Identity" else ():
            if source in tensors:
                tensors.setdefault(copy, tensors[source])
    renamed = set()
    for name, weight in _linear_weights(graph):
        if weight in tensors and tensors[weight].ndim == 2:
            tensors.setdefault(name, tensors[weight].T.contiguous())
            renamed |= {weight} - {name}
    named = {name: tensor for name, tensor in tensors.items() if name not in renamed}
    return {**named, **_position_embeddings(graph, tensors)}


def _read(path: Path) -> "ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size >= MAX_BYTES:
            raise ValueError(
                f"{path} is larger than 2 GiB, which no ONNX file with its weights inside is; copy it again"
            )
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ValueError(f"{path} is not a readable ONNX file ({error}); copy it again") from error
    outside = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if outside:
        raise ValueError(
            f"{path} keeps {len(outside)} weights in other files, which are not read; "
            "save it as one file with onnx.save(onnx.load(FILE), NEW)"
        )
    return model


def _is_float(tensor: "TensorProto") -> bool:
    from onnx import TensorProto

    return tensor.data_type in {getattr(TensorProto, name) for name in FLOATS}


def _to_torch(tensor: "TensorProto", path: Path) -> Tensor:
    from onnx.numpy_helper import to_array

    try:
        return torch.from_numpy(np.array(to_array(tensor), dtype=np.float32))
    except (ValueError, TypeError) as error:  # the data does not have the size that the dimensions give
        raise ValueError(f"{path} has a damaged tensor, {tensor.name} ({error}); copy it again") from error


def _linear_weights(graph: "GraphProto") -> Iterator[tuple[str, str]]:
    """Iterate over the weights of linear layers: the layer's name with ".weight", and the name of the stored transpose.

    A layer is named by the bias that is added to its product; without a bias by the node, to which PyTorch gives the
    path of the module.
    """
    added = {
        name: other
        for node in graph.node
        if node.op_type == "Add" and len(node.input) == 2
        for name, other in (tuple(node.input), tuple(reversed(node.input)))
    }
    for node in graph.node:
        if node.op_type == "MatMul" and len(node.input) == 2 and node.output:
            bias = added.get(node.output[0], "")
            module = bias.removesuffix(".bias") if bias.endswith(".bias") else _module_of(node)
            yield f"{module}.weight", node.input[1]


def _module_of(node: "NodeProto") -> str:
    """Return the path of the module that a node belongs to.

    It is "layer.0.fc1" for "/layer.0/fc1/MatMul", and for "/layer/layer.0/fc1/MatMul", which a Sequential gives.
    """
    words = node.name.rpartition("/")[0].strip("/").split("/")
    return ".".join(
        word for word, next_word in zip(words, [*words[1:], ""], strict=True) if word != next_word.partition(".")[0]
    )


def _position_embeddings(graph: "GraphProto", tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the position embedding of a class token (1, 1, D) with those of the patches (1, N, D), which are resampled.

    Returns:
        The position embeddings by name, or {} if they are one tensor already, or are not found.
    """
    produced = {output: node for node in graph.node for output in node.output}
    class_token = next((name for name in tensors if name.rpartition(".")[2] == "cls_token"), "")
    for node in graph.node:
        if node.op_type != "Concat" or len(node.input) != 2 or not class_token:
            continue
        first, rest = (tensors.get(_trace_back(name, produced)) for name in node.input)
        width = tensors[class_token].shape[-1]
        if first is None or rest is None or first.shape != (1, 1, width) or rest.shape != (1, rest.shape[1], width):
            continue
        ending = next(ending for ending in POSITION_NAMES if class_token.endswith(ending))
        return {class_token.removesuffix(ending) + POSITION_NAMES[ending]: torch.cat([first, rest], dim=1)}
    return {}


def _trace_back(name: str, produced: dict[str, "NodeProto"]) -> str:
    """Return the tensor that a value was resampled from, or the value itself."""
    for _ in range(MAX_STEPS):  # a damaged graph may have circles
        node = produced.get(name)
        if node is None or node.op_type not in RESAMPLING or not node.input:
            break
        name = node.input[0]
    return name
