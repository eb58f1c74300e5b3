"""Static int8 and fp8 quantization with explicit Q/DQ nodes, which ONNX Runtime and TensorRT read."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gtsa_kit.export.formats.quant_layers import QuantType, activation_scales, float_layers, quantizable_layers
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.export.task_graph import AnyGraph
from gtsa_kit.models.preprocessing import InputImage, Preprocessing

BATCH: Final = 4
"""Number of images in a calibration batch."""
CHANNEL_AXES: Final = {"MatMul": 1, "Conv": 0}
"""Axis of the output channels of the weights, by operator."""


@dataclass(frozen=True)
class Calibration:
    """Images that set the ranges of activations, and a description of where they came from."""

    images: Sequence[InputImage]
    origin: str


def quantize(
    model: onnx.ModelProto,
    graph: AnyGraph,
    batches: list[np.ndarray],
    quant_type: QuantType,
    keep_float: Sequence[str] = (),
) -> list[str]:
    """Add Q/DQ nodes around the weights of the blocks and of a head's convolutions, except for `float_layers`.

    Weights are quantized per channel, activations per tensor, both symmetrically. Products of activations (attention),
    the patch embedding, transposed convolutions and everything else stay float32.

    Args:
        model: The exported `graph`; it is modified.
        graph: The graph in float32.
        batches: Inputs of the graph that set the ranges of activations.
        quant_type: Type to quantize to.
        keep_float: See `float_layers`.

    Returns:
        Names of the layers that stay float32.
    """
    scales = activation_scales(graph, batches, quant_type)
    kept_float = float_layers(graph, batches, scales, quant_type, keep_float)
    by_content = {}
    for name, layer in quantizable_layers(graph).items():
        weight = layer.weight.detach().numpy()
        if name not in kept_float:
            by_content[tensor_digest(weight.T if weight.ndim == 2 else weight)] = name
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) in (2, 4)}
    nodes, replaced = [], set()
    for node in model.graph.node:
        name = node.input[1] if node.op_type in CHANNEL_AXES else ""
        title = by_content.get(tensor_digest(_array(weights[name]))) if name in weights else None
        if title:
            nodes += _quantize_product(node, _array(weights[name]), scales[title], quant_type, model.graph)
            replaced.add(name)
        nodes.append(node)
    assert len(replaced) == len(by_content), "weights of a layer are missing in the graph"
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return kept_float


def calibration_batches(
    calibration: Calibration, preprocessing: Preprocessing, options: ExportOptions
) -> Iterator[np.ndarray]:
    """Iterate over inputs of the graph at its base size, at 0.5 and at 1.5 of it, each clamped to the allowed sizes.

    The range of activations depends on how much of an image a patch covers, so one size would not give the range at
    other sizes.
    """
    step, base = options.batch.clamp(BATCH), preprocessing.size
    sides = (base, base // 2, base, 3 * base // 2)
    sizes = [(options.height.clamp(side), options.width.clamp(side)) for side in sides]
    for number, start in enumerate(range(0, len(calibration.images), step)):
        chosen = [*calibration.images[start : start + step]]
        chosen += calibration.images[: max(0, options.batch.min - len(chosen))]  # fill a batch of fixed size
        yield np.stack([_graph_input(image, sizes[number % len(sizes)], preprocessing, options) for image in chosen])


def _graph_input(
    image: InputImage, size: tuple[int, int], preprocessing: Preprocessing, options: ExportOptions
) -> np.ndarray:
    """Return an image as an element of the batch of a graph."""
    if not options.takes_samples:
        return preprocessing(image, size)
    return preprocessing.resized(image, size).astype(options.dtype, copy=False)


def _quantize_product(
    node: onnx.NodeProto, weight: np.ndarray, scale: float, quant_type: QuantType, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Return Q/DQ nodes for a product with (K, N) or a convolution with (N, C, h, w); change its inputs to theirs."""
    name, activation, axis = node.output[0], node.input[0], CHANNEL_AXES[node.op_type]
    others = tuple(i for i in range(weight.ndim) if i != axis)
    steps = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-12) / quant_type.max
    constants = {
        "x_scale": np.float32(scale),
        "x_zero": np.zeros((), quant_type.dtype),
        "w_rounded": quant_type.round(weight / steps),
        "w_scale": steps.astype(np.float32).reshape(-1),
        "w_zero": np.zeros(steps.size, quant_type.dtype),
    }
    names = {key: f"{name}_{key}" for key in (*constants, "x_rounded", "x", "w")}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), names[key]) for key, v in constants.items())
    node.input[0], node.input[1] = names["x"], names["w"]
    scale_and_zero = [names["x_scale"], names["x_zero"]]
    return [
        helper.make_node("QuantizeLinear", [activation, *scale_and_zero], [names["x_rounded"]]),
        helper.make_node("DequantizeLinear", [names["x_rounded"], *scale_and_zero], [names["x"]]),
        helper.make_node(
            "DequantizeLinear", [names["w_rounded"], names["w_scale"], names["w_zero"]], [names["w"]], axis=axis
        ),
    ]


def _array(tensor: TensorProto) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(tensor))


def tensor_digest(value: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and the SHA-256 of the bytes, which identify a tensor by its content."""
    return value.shape, hashlib.sha256(value.tobytes()).digest()
