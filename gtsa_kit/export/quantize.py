"""Static int8: explicit Q/DQ nodes that ONNX Runtime and TensorRT both take; ranges from the user's photographs."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from gtsa_kit.config import PATCH
from gtsa_kit.encoder import Preprocessing
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.spec import Options

BATCH = 4
LARGEST = 127
"""Symmetric: -127 to 127, zero point 0, which TensorRT asks for."""


@dataclass(frozen=True)
class Calibration:
    """Photographs whose activations set the ranges."""

    images: list[Image.Image]
    origin: str


def quantize(model: onnx.ModelProto, graph: ExportGraph, batches: list[np.ndarray]) -> None:
    """Put Q/DQ around every matrix of weights in the blocks: weights per channel, activations per tensor, symmetric.

    Products of activations (attention), the patch embedding and everything between stay float32.

    Args:
        model: What became of `graph`; changed in place.
        graph: In float32.
        batches: Inputs of the graph that set the ranges of activations.
    """
    scales = activation_scales(graph, batches)
    by_content = {digest(linear.weight.detach().numpy().T): name for name, linear in linears(graph).items()}
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes, replaced = [], set()
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        place = by_content.get(digest(_array(weights[name]))) if name in weights else None
        if place:
            nodes += _quantized(node, _array(weights[name]), scales[place], model.graph)
            replaced.add(name)
        nodes.append(node)
    assert len(replaced) == len(scales), "a matrix of weights was not found in the graph"
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def linears(graph: ExportGraph) -> dict[str, nn.Linear]:
    """The matrices of weights in the blocks, by name."""
    return {name: module for name, module in graph.blocks.named_modules() if isinstance(module, nn.Linear)}


def activation_scales(graph: ExportGraph, batches: list[np.ndarray]) -> dict[str, float]:
    """What one step of int8 is worth at the input of each matrix of weights."""
    largest: dict[str, float] = dict.fromkeys(linears(graph), 1e-12)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest[name] = max(largest[name], float(inputs[0].abs().max()))

        return look

    with ExitStack() as hooks, torch.inference_mode():
        for name, linear in linears(graph).items():
            hooks.callback(linear.register_forward_pre_hook(watch(name)).remove)
        for batch in batches:
            graph(torch.from_numpy(batch))
    return {name: value / LARGEST for name, value in largest.items()}


def calibration_batches(
    calibration: Calibration, preprocessing: Preprocessing, options: Options
) -> Iterator[np.ndarray]:
    """Inputs of the graph, of its base size, of half and of one and a half times that, or of the nearest that it takes.

    Activations depend on how much of a photograph a patch shows, so one size would not give the range of others.
    """
    step, base = options.batch.clamp(BATCH), preprocessing.size
    prepare = preprocessing.resized if options.input == "uint8" else preprocessing
    sides = (base, base // 2 // PATCH * PATCH, base, 3 * base // 2 // PATCH * PATCH)
    sizes = [(options.height.clamp(side), options.width.clamp(side)) for side in sides]
    for number, start in enumerate(range(0, len(calibration.images), step)):
        chosen = calibration.images[start : start + step]
        chosen += calibration.images[: max(0, options.batch.min - len(chosen))]  # a fixed batch is full
        yield np.stack([prepare(image, sizes[number % len(sizes)]) for image in chosen])


def sensitivity(
    graph: ExportGraph, batches: list[np.ndarray], on_layer: Callable[[int, int], None] = lambda *_: None
) -> list[tuple[str, float]]:
    """Each matrix of weights, and the worst patch cosine if it alone were int8; the worst first."""
    scales, images = activation_scales(graph, batches), torch.from_numpy(batches[0])
    found = []
    with torch.inference_mode():
        expected = graph(images)[1]
        for done, (name, linear) in enumerate(linears(graph).items(), 1):
            with _as_int8(linear, scales[name]):
                cosine = torch.cosine_similarity(graph(images)[1], expected, dim=1).min()
            found.append((f"blocks.{name.removesuffix('.linear')}", float(cosine)))
            on_layer(done, len(scales))
    return sorted(found, key=lambda layer: layer[1])


def _as_int8(linear: nn.Linear, scale: float) -> ExitStack:
    """Within it, a Linear computes with rounded weights (per channel) and inputs (per tensor)."""
    weight = linear.weight.data
    steps = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST
    linear.weight.data = (weight / steps).round() * steps
    hook = linear.register_forward_pre_hook(lambda _, x: (x[0] / scale).round().clamp(-LARGEST, LARGEST) * scale)
    stack = ExitStack()
    stack.callback(hook.remove)
    stack.callback(setattr, linear.weight, "data", weight)
    return stack


def _quantized(node: onnx.NodeProto, weight: np.ndarray, scale: float, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Q/DQ in front of a product (..., K) x (K, N), which is made to read from them."""
    name, activation = node.output[0], node.input[0]
    steps = np.maximum(np.abs(weight).max(axis=0), 1e-12) / LARGEST  # (N,)
    constants = {
        "x_scale": np.float32(scale),
        "x_zero": np.int8(0),
        "w_int8": np.rint(weight / steps).astype(np.int8),
        "w_scale": steps.astype(np.float32),
        "w_zero": np.zeros(len(steps), np.int8),
    }
    at = {key: f"{name}_{key}" for key in (*constants, "x_int8", "x", "w")}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), at[key]) for key, v in constants.items())
    node.input[0], node.input[1] = at["x"], at["w"]
    scaled = [at["x_scale"], at["x_zero"]]
    return [
        helper.make_node("QuantizeLinear", [activation, *scaled], [at["x_int8"]]),
        helper.make_node("DequantizeLinear", [at["x_int8"], *scaled], [at["x"]]),
        helper.make_node("DequantizeLinear", [at["w_int8"], at["w_scale"], at["w_zero"]], [at["w"]], axis=1),
    ]


def _array(tensor: TensorProto) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(tensor))


def digest(value: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """What tells one tensor from another by its content."""
    return value.shape, hashlib.sha256(value.tobytes()).digest()
