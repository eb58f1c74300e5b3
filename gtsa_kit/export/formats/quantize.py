"""Static int8 and fp8 quantization with explicit Q/DQ nodes, which ONNX Runtime and TensorRT read."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Preprocessing

BATCH: Final = 4
"""Number of images in a calibration batch."""


@dataclass(frozen=True)
class QuantType:
    """Number type of quantized values, symmetric about zero, which TensorRT requires."""

    max: float
    """Largest value of the type."""
    dtype: Any
    """Dtype of numpy."""

    def round(self, values: np.ndarray) -> np.ndarray:
        """Clip values to -max and max and round them to `dtype`."""
        if self.dtype is np.int8:
            values = np.rint(values)
        return np.asarray(np.clip(values, -self.max, self.max).astype(self.dtype))


QUANT_TYPES: Final = {"int8": QuantType(127, np.int8), "fp8": QuantType(448, ml_dtypes.float8_e4m3fn)}


@dataclass(frozen=True)
class Calibration:
    """Images that set the ranges of activations, and a description of where they came from."""

    images: list[Image.Image]
    origin: str


def quantize(model: onnx.ModelProto, graph: ExportGraph, batches: list[np.ndarray], quant_type: QuantType) -> None:
    """Add Q/DQ nodes around every weight matrix of the blocks.

    Weights are quantized per channel, activations per tensor, both symmetrically. Products of activations (attention),
    the patch embedding and everything else stay float32.

    Args:
        model: The exported `graph`; it is modified.
        graph: The graph in float32.
        batches: Inputs of the graph that set the ranges of activations.
        quant_type: Type to quantize to.
    """
    scales = activation_scales(graph, batches, quant_type)
    by_content = {
        tensor_digest(linear.weight.detach().numpy().T): name for name, linear in linear_layers(graph).items()
    }
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes, replaced = [], set()
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        layer = by_content.get(tensor_digest(_array(weights[name]))) if name in weights else None
        if layer:
            nodes += _quantize_matmul(node, _array(weights[name]), scales[layer], quant_type, model.graph)
            replaced.add(name)
        nodes.append(node)
    assert len(replaced) == len(scales), "a weight matrix is missing in the graph"
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def linear_layers(graph: ExportGraph) -> dict[str, nn.Linear]:
    """Return the linear layers of the blocks by name."""
    return {name: module for name, module in graph.blocks.named_modules() if isinstance(module, nn.Linear)}


def activation_scales(graph: ExportGraph, batches: list[np.ndarray], quant_type: QuantType) -> dict[str, float]:
    """Return the scale of the input of each linear layer: its maximum absolute value over `quant_type.max`."""
    max_abs: dict[str, float] = dict.fromkeys(linear_layers(graph), 1e-12)

    def make_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            max_abs[name] = max(max_abs[name], float(inputs[0].abs().max()))

        return hook

    with ExitStack() as hooks, torch.inference_mode():
        for name, linear in linear_layers(graph).items():
            hooks.callback(linear.register_forward_pre_hook(make_hook(name)).remove)
        for batch in batches:
            graph(torch.from_numpy(batch))
    return {name: value / quant_type.max for name, value in max_abs.items()}


def calibration_batches(
    calibration: Calibration, preprocessing: Preprocessing, options: ExportOptions
) -> Iterator[np.ndarray]:
    """Iterate over inputs of the graph at its base size, at 0.5 and at 1.5 of it, each clamped to the allowed sizes.

    The range of activations depends on how much of an image a patch covers, so one size would not give the range at
    other sizes.
    """
    step, base = options.batch.clamp(BATCH), preprocessing.size
    prepare = preprocessing.resized if options.input == "uint8" else preprocessing
    sides = (base, base // 2, base, 3 * base // 2)
    sizes = [(options.height.clamp(side), options.width.clamp(side)) for side in sides]
    for number, start in enumerate(range(0, len(calibration.images), step)):
        chosen = calibration.images[start : start + step]
        chosen += calibration.images[: max(0, options.batch.min - len(chosen))]  # fill a batch of fixed size
        yield np.stack([prepare(image, sizes[number % len(sizes)]) for image in chosen])


def layer_sensitivity(
    graph: ExportGraph,
    batches: list[np.ndarray],
    quant_type: QuantType,
    on_layer: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[str, float]]:
    """Measure the effect of quantizing each linear layer alone.

    Args:
        graph: The graph in float32.
        batches: Inputs of the graph; the first one is compared.
        quant_type: Type to quantize to.
        on_layer: Called with (layers done, all layers).

    Returns:
        Layers with the minimum cosine of a patch token to its float32 value, the lowest first.
    """
    scales, images = activation_scales(graph, batches, quant_type), torch.from_numpy(batches[0])
    results = []
    with torch.inference_mode():
        expected = graph(images)[1]
        for done, (name, linear) in enumerate(linear_layers(graph).items(), 1):
            with _fake_quantized(linear, scales[name], quant_type):
                cosine = torch.cosine_similarity(graph(images)[1], expected, dim=1).min()
            results.append((f"blocks.{name.removesuffix('.linear')}", float(cosine)))
            on_layer(done, len(scales))
    return sorted(results, key=lambda result: result[1])


def _fake_quantized(linear: nn.Linear, scale: float, quant_type: QuantType) -> ExitStack:
    """Round the weights (per channel) and inputs (per tensor) of a linear layer while the context is open."""

    def fake_quantize(values: Tensor, steps: Tensor | float) -> Tensor:
        return torch.from_numpy(quant_type.round((values / steps).numpy()).astype(np.float32)) * steps

    weight = linear.weight.data
    steps = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / quant_type.max
    linear.weight.data = fake_quantize(weight, steps)
    hook = linear.register_forward_pre_hook(lambda _, x: fake_quantize(x[0], scale))
    stack = ExitStack()
    stack.callback(hook.remove)
    stack.callback(setattr, linear.weight, "data", weight)
    return stack


def _quantize_matmul(
    node: onnx.NodeProto, weight: np.ndarray, scale: float, quant_type: QuantType, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Return Q/DQ nodes for a product (..., K) x (K, N), and change the product's inputs to their outputs."""
    name, activation = node.output[0], node.input[0]
    steps = np.maximum(np.abs(weight).max(axis=0), 1e-12) / quant_type.max  # (N,)
    constants = {
        "x_scale": np.float32(scale),
        "x_zero": np.zeros((), quant_type.dtype),
        "w_rounded": quant_type.round(weight / steps),
        "w_scale": steps.astype(np.float32),
        "w_zero": np.zeros(len(steps), quant_type.dtype),
    }
    names = {key: f"{name}_{key}" for key in (*constants, "x_rounded", "x", "w")}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), names[key]) for key, v in constants.items())
    node.input[0], node.input[1] = names["x"], names["w"]
    scale_and_zero = [names["x_scale"], names["x_zero"]]
    return [
        helper.make_node("QuantizeLinear", [activation, *scale_and_zero], [names["x_rounded"]]),
        helper.make_node("DequantizeLinear", [names["x_rounded"], *scale_and_zero], [names["x"]]),
        helper.make_node(
            "DequantizeLinear", [names["w_rounded"], names["w_scale"], names["w_zero"]], [names["w"]], axis=1
        ),
    ]


def _array(tensor: TensorProto) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(tensor))


def tensor_digest(value: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and the SHA-256 of the bytes, which identify a tensor by its content."""
    return value.shape, hashlib.sha256(value.tobytes()).digest()
