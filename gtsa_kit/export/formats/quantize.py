"""Static int8 and fp8: explicit Q/DQ nodes that ONNX Runtime and TensorRT take; ranges from the user's images."""

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

from gtsa_kit.config import PATCH
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Preprocessing

BATCH = 4


@dataclass(frozen=True)
class QuantType:
    """Numbers that values are rounded to, symmetric about zero, which TensorRT asks for."""

    largest: float
    dtype: Any
    """numpy's."""

    def round(self, values: np.ndarray) -> np.ndarray:
        """Values between -largest and largest, as `dtype`."""
        if self.dtype is np.int8:
            values = np.rint(values)
        return np.asarray(np.clip(values, -self.largest, self.largest).astype(self.dtype))


QUANT_TYPES: Final = {"int8": QuantType(127, np.int8), "fp8": QuantType(448, ml_dtypes.float8_e4m3fn)}


@dataclass(frozen=True)
class Calibration:
    """Images whose activations set the ranges."""

    images: list[Image.Image]
    origin: str


def quantize(model: onnx.ModelProto, graph: ExportGraph, batches: list[np.ndarray], grid: QuantType) -> None:
    """Put Q/DQ around every matrix of weights in the blocks: weights per channel, activations per tensor, symmetric.

    Products of activations (attention), the patch embedding and everything between stay float32.

    Args:
        model: What became of `graph`; changed in place.
        graph: In float32.
        batches: Inputs of the graph that set the ranges of activations.
        grid: What to round to.
    """
    scales = activation_scales(graph, batches, grid)
    by_content = {
        tensor_digest(linear.weight.detach().numpy().T): name for name, linear in linear_layers(graph).items()
    }
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes, replaced = [], set()
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        place = by_content.get(tensor_digest(_array(weights[name]))) if name in weights else None
        if place:
            nodes += _quantized(node, _array(weights[name]), scales[place], grid, model.graph)
            replaced.add(name)
        nodes.append(node)
    assert len(replaced) == len(scales), "a matrix of weights was not found in the graph"
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def linear_layers(graph: ExportGraph) -> dict[str, nn.Linear]:
    """The matrices of weights in the blocks, by name."""
    return {name: module for name, module in graph.blocks.named_modules() if isinstance(module, nn.Linear)}


def activation_scales(graph: ExportGraph, batches: list[np.ndarray], grid: QuantType) -> dict[str, float]:
    """What 1 on the grid is worth at the input of each matrix of weights."""
    largest: dict[str, float] = dict.fromkeys(linear_layers(graph), 1e-12)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest[name] = max(largest[name], float(inputs[0].abs().max()))

        return look

    with ExitStack() as hooks, torch.inference_mode():
        for name, linear in linear_layers(graph).items():
            hooks.callback(linear.register_forward_pre_hook(watch(name)).remove)
        for batch in batches:
            graph(torch.from_numpy(batch))
    return {name: value / grid.largest for name, value in largest.items()}


def calibration_batches(
    calibration: Calibration, preprocessing: Preprocessing, options: ExportOptions
) -> Iterator[np.ndarray]:
    """Inputs of the graph, of its base size, of half and of one and a half times that, or of the nearest that it takes.

    Activations depend on how much of an image a patch shows, so one size would not give the range of others.
    """
    step, base = options.batch.clamp(BATCH), preprocessing.size
    prepare = preprocessing.resized if options.input == "uint8" else preprocessing
    sides = (base, base // 2 // PATCH * PATCH, base, 3 * base // 2 // PATCH * PATCH)
    sizes = [(options.height.clamp(side), options.width.clamp(side)) for side in sides]
    for number, start in enumerate(range(0, len(calibration.images), step)):
        chosen = calibration.images[start : start + step]
        chosen += calibration.images[: max(0, options.batch.min - len(chosen))]  # a fixed batch is full
        yield np.stack([prepare(image, sizes[number % len(sizes)]) for image in chosen])


def layer_sensitivity(
    graph: ExportGraph,
    batches: list[np.ndarray],
    grid: QuantType,
    on_layer: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[str, float]]:
    """Each matrix of weights, and the worst patch cosine if it alone were rounded; the worst first."""
    scales, images = activation_scales(graph, batches, grid), torch.from_numpy(batches[0])
    found = []
    with torch.inference_mode():
        expected = graph(images)[1]
        for done, (name, linear) in enumerate(linear_layers(graph).items(), 1):
            with _rounded(linear, scales[name], grid):
                cosine = torch.cosine_similarity(graph(images)[1], expected, dim=1).min()
            found.append((f"blocks.{name.removesuffix('.linear')}", float(cosine)))
            on_layer(done, len(scales))
    return sorted(found, key=lambda layer: layer[1])


def _rounded(linear: nn.Linear, scale: float, grid: QuantType) -> ExitStack:
    """Within it, a Linear computes with rounded weights (per channel) and inputs (per tensor)."""

    def onto_grid(values: Tensor, steps: Tensor | float) -> Tensor:
        return torch.from_numpy(grid.round((values / steps).numpy()).astype(np.float32)) * steps

    weight = linear.weight.data
    linear.weight.data = onto_grid(weight, weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / grid.largest)
    hook = linear.register_forward_pre_hook(lambda _, x: onto_grid(x[0], scale))
    stack = ExitStack()
    stack.callback(hook.remove)
    stack.callback(setattr, linear.weight, "data", weight)
    return stack


def _quantized(
    node: onnx.NodeProto, weight: np.ndarray, scale: float, grid: QuantType, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Q/DQ in front of a product (..., K) x (K, N), which is made to read from them."""
    name, activation = node.output[0], node.input[0]
    steps = np.maximum(np.abs(weight).max(axis=0), 1e-12) / grid.largest  # (N,)
    constants = {
        "x_scale": np.float32(scale),
        "x_zero": np.zeros((), grid.dtype),
        "w_rounded": grid.round(weight / steps),
        "w_scale": steps.astype(np.float32),
        "w_zero": np.zeros(len(steps), grid.dtype),
    }
    at = {key: f"{name}_{key}" for key in (*constants, "x_rounded", "x", "w")}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), at[key]) for key, v in constants.items())
    node.input[0], node.input[1] = at["x"], at["w"]
    scaled = [at["x_scale"], at["x_zero"]]
    return [
        helper.make_node("QuantizeLinear", [activation, *scaled], [at["x_rounded"]]),
        helper.make_node("DequantizeLinear", [at["x_rounded"], *scaled], [at["x"]]),
        helper.make_node("DequantizeLinear", [at["w_rounded"], at["w_scale"], at["w_zero"]], [at["w"]], axis=1),
    ]


def _array(tensor: TensorProto) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(tensor))


def tensor_digest(value: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """What tells one tensor from another by its content."""
    return value.shape, hashlib.sha256(value.tobytes()).digest()
