"""Layers of a graph under int8 and fp8: ranges of their inputs, and the effect of quantizing each of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.export.detector_graph import DetectorGraph
from gtsa_kit.export.spec import HEAD
from gtsa_kit.export.task_graph import AnyGraph, TaskGraph
from gtsa_kit.export.tolerances import MIN_LAYER_COSINE

Layer = nn.Linear | nn.Conv2d


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


def quantizable_layers(graph: AnyGraph) -> dict[str, Layer]:
    """Return the linear layers of the blocks and the convolutions of a head, by names such as "blocks.0.mlp.fc1"."""
    encoder = graph.encoder if isinstance(graph, TaskGraph) else graph
    layers: dict[str, Layer] = {
        f"blocks.{name.removesuffix('.linear')}": module
        for name, module in encoder.blocks.named_modules()
        if isinstance(module, nn.Linear)
    }
    if isinstance(graph, TaskGraph):
        head = _trunk_modules(graph.head) if isinstance(graph.head, DetectorGraph) else graph.head.named_modules()
        layers |= {f"{HEAD}.{name}": module for name, module in head if isinstance(module, nn.Conv2d)}
    return layers


def _trunk_modules(head: DetectorGraph) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the modules of a detector's feature pyramid; what computes boxes and masks of it stays float32."""
    yield from head.top_down.named_modules(prefix="top_down")


def activation_scales(graph: AnyGraph, batches: list[np.ndarray], quant_type: QuantType) -> dict[str, float]:
    """Return the scale of the input of each layer: its maximum absolute value over `quant_type.max`."""
    max_abs: dict[str, float] = dict.fromkeys(quantizable_layers(graph), 1e-12)

    def make_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            max_abs[name] = max(max_abs[name], float(inputs[0].abs().max()))

        return hook

    with ExitStack() as hooks, torch.inference_mode():
        for name, layer in quantizable_layers(graph).items():
            hooks.callback(layer.register_forward_pre_hook(make_hook(name)).remove)
        for batch in batches:
            graph(torch.from_numpy(batch))
    return {name: value / quant_type.max for name, value in max_abs.items()}


def layer_sensitivity(
    graph: AnyGraph,
    images: np.ndarray,
    scales: Mapping[str, float],
    quant_type: QuantType,
    on_layer: Callable[[int, int], None] = lambda *_: None,
) -> list[tuple[str, float]]:
    """Measure the effect of quantizing each layer alone.

    Args:
        graph: The graph in float32.
        images: Input of the graph.
        scales: Result of `activation_scales`.
        quant_type: Type to quantize to.
        on_layer: Called with (layers done, all layers).

    Returns:
        Layers with the minimum cosine of a patch token to its float32 value, or of all logits of an image if that is
        lower, the lowest first.
    """
    batch, results = torch.from_numpy(images), []
    with torch.inference_mode():
        expected = _compared_rows(graph, batch)
        for done, (name, layer) in enumerate(quantizable_layers(graph).items(), 1):
            with _fake_quantized(layer, scales[name], quant_type):
                actual = _compared_rows(graph, batch)
            cosines = [torch.cosine_similarity(*pair, dim=1).min() for pair in zip(actual, expected, strict=True)]
            results.append((name, float(min(cosines))))
            on_layer(done, len(scales))
    return sorted(results, key=lambda result: result[1])


def _compared_rows(graph: AnyGraph, batch: Tensor) -> list[Tensor]:
    """Return the vectors that quantization should not turn: patch tokens (N, D) and, per image, the logits (B, L).

    All logits of an image are one vector, without their means over the classes: a pixel's own may be near zero, where
    any error turns them. Of detectors, the vectors of the feature pyramid are compared.
    """
    if not isinstance(graph, TaskGraph):
        return [graph(batch)[1].transpose(0, 1).flatten(1).T]
    features = graph.features(batch)
    if isinstance(graph.head, DetectorGraph):
        return [one.transpose(0, 1).flatten(1).T for one in (*features, *graph.head.levels(features))]
    logits = graph.head(*features)
    tokens = [one.transpose(0, 1).flatten(1).T for one in features]
    return [*tokens, (logits - logits.mean(dim=1, keepdim=True)).flatten(1)]


def float_layers(
    graph: AnyGraph,
    batches: list[np.ndarray],
    scales: Mapping[str, float],
    quant_type: QuantType,
    requested: Sequence[str] = (),
) -> list[str]:
    """Return the layers that stay float32, the most sensitive first.

    In trained weights a few layers have inputs with outliers, which no range of one tensor serves: a range with them is
    coarse for all other values, and a range without them cuts what the network relies on.

    Args:
        graph: The graph in float32.
        batches: Inputs of the graph; the one with fewest pixels is compared.
        scales: Result of `activation_scales`.
        quant_type: Type to quantize to.
        requested: Names of layers, or of modules that hold them, that stay float32 whatever their effect.
    """
    fewest_pixels = min(batches, key=lambda batch: batch.size)
    sensitivity = layer_sensitivity(graph, fewest_pixels, scales, quant_type)
    return [
        name
        for name, cosine in sensitivity
        if cosine < MIN_LAYER_COSINE or any(_is_within(name, prefix) for prefix in requested)
    ]


def check_layer_names(graph: AnyGraph, requested: Sequence[str]) -> None:
    """Raise `ValueError` if there is no layer of a requested name, or of a module of this name."""
    names = list(quantizable_layers(graph))
    for prefix in requested:
        if prefix != HEAD and not any(_is_within(name, prefix) for name in names):
            first = ", ".join(names[:3])
            raise ValueError(f"--keep-float names no layer {prefix!r} of the graph; layers are {first}, ...")


def _is_within(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")


def _fake_quantized(layer: Layer, scale: float, quant_type: QuantType) -> ExitStack:
    """Round the weights (per channel) and inputs (per tensor) of a layer while the context is open."""

    def fake_quantize(values: Tensor, steps: Tensor | float) -> Tensor:
        return quant_type.round_tensor(values / steps) * steps

    weight = layer.weight.data
    steps = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp(min=1e-12) / quant_type.max
    layer.weight.data = fake_quantize(weight, steps)
    hook = layer.register_forward_pre_hook(lambda _, x: fake_quantize(x[0], scale))
    stack = ExitStack()
    stack.callback(hook.remove)
    stack.callback(setattr, layer.weight, "data", weight)
    return stack
