"""Linear layers of a graph under int8 and fp8: ranges of their inputs, and the effect of quantizing each of them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.spec import MIN_LAYER_COSINE


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

    def round_tensor(self, values: Tensor) -> Tensor:
        """Return the float32 values of `round`."""
        limited = values.clamp(-self.max, self.max)
        return limited.round() if self.dtype is np.int8 else limited.to(torch.float8_e4m3fn).float()


QUANT_TYPES: Final = {"int8": QuantType(127, np.int8), "fp8": QuantType(448, ml_dtypes.float8_e4m3fn)}


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


def layer_sensitivity(
    graph: ExportGraph,
    images: np.ndarray,
    scales: Mapping[str, float],
    quant_type: QuantType,
    on_layer: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[str, float]]:
    """Measure the effect of quantizing each linear layer alone.

    Args:
        graph: The graph in float32.
        images: Input of the graph.
        scales: Result of `activation_scales`.
        quant_type: Type to quantize to.
        on_layer: Called with (layers done, all layers).

    Returns:
        Layers with the minimum cosine of a patch token to its float32 value, the lowest first.
    """
    batch, results = torch.from_numpy(images), []
    with torch.inference_mode():
        expected = graph(batch)[1]
        for done, (name, linear) in enumerate(linear_layers(graph).items(), 1):
            with _fake_quantized(linear, scales[name], quant_type):
                cosine = torch.cosine_similarity(graph(batch)[1], expected, dim=1).min()
            results.append((name, float(cosine)))
            on_layer(done, len(scales))
    return sorted(results, key=lambda result: result[1])


def float_layers(
    graph: ExportGraph, batches: list[np.ndarray], scales: Mapping[str, float], quant_type: QuantType
) -> list[str]:
    """Return the linear layers that stay float32, the most sensitive first.

    In trained weights a few layers have inputs with outliers, which no range of one tensor serves: a range with them is
    coarse for all other values, and a range without them cuts what the network relies on.

    Args:
        graph: The graph in float32.
        batches: Inputs of the graph; the one with fewest pixels is compared.
        scales: Result of `activation_scales`.
        quant_type: Type to quantize to.
    """
    fewest_pixels = min(batches, key=lambda batch: batch.size)
    sensitivity = layer_sensitivity(graph, fewest_pixels, scales, quant_type)
    return [name for name, cosine in sensitivity if cosine < MIN_LAYER_COSINE]


def layer_title(name: str) -> str:
    """Return the name of a layer of `linear_layers` in the encoder: "blocks.0.mlp.fc1" for "0.mlp.fc1.linear"."""
    return f"blocks.{name.removesuffix('.linear')}"


def _fake_quantized(linear: nn.Linear, scale: float, quant_type: QuantType) -> ExitStack:
    """Round the weights (per channel) and inputs (per tensor) of a linear layer while the context is open."""

    def fake_quantize(values: Tensor, steps: Tensor | float) -> Tensor:
        return quant_type.round_tensor(values / steps) * steps

    weight = linear.weight.data
    steps = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / quant_type.max
    linear.weight.data = fake_quantize(weight, steps)
    hook = linear.register_forward_pre_hook(lambda _, x: fake_quantize(x[0], scale))
    stack = ExitStack()
    stack.callback(hook.remove)
    stack.callback(setattr, linear.weight, "data", weight)
    return stack
