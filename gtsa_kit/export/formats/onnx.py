"""ONNX export, and the encoder's weights inside exported ONNX files."""

import json
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from gtsa_kit.export.formats.onnx_file import metadata_value, read_model, write_model
from gtsa_kit.export.formats.onnx_graph import LAYER_KEY, layer_of
from gtsa_kit.export.formats.quant_layers import QUANT_TYPES, check_layer_names
from gtsa_kit.export.formats.quantize import Calibration, calibration_batches, quantize, tensor_digest
from gtsa_kit.export.formats.tracing import tracing
from gtsa_kit.export.graph import (
    dynamic_shapes,
    example_input,
    join_position_embeddings,
    split_position_embeddings,
)
from gtsa_kit.export.layout import AXES
from gtsa_kit.export.spec import DETECTIONS, HEAD, INPUT, LOGITS, MASK, QUANTIZED, ExportOptions
from gtsa_kit.export.task_graph import AnyGraph, build_graph, float_head_note, options_for
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel, encoder_of

WEIGHTS_KEY: Final = "gtsa_kit_weights"
"""Key of the model's metadata that holds the result of `locate_weights` as JSON."""


def export_onnx(
    model: Encoder | TaskModel, options: ExportOptions, path: Path, calibration: Calibration | None = None
) -> dict[str, str]:
    """Write one ONNX file with the dynamic axes that the options leave open.

    The graph of an encoder has no Resize operator, that of a task model none with antialiasing.

    Args:
        model: Encoder or task model in float32.
        options: Precision, sizes, layers or output, opset and input type.
        path: The file to write.
        calibration: Images that set the ranges of activations; required for int8 and fp8 only.

    Returns:
        The `target` of the manifest.
    """
    options = options_for(model, options)
    graph = build_graph(model, options, attention="explicit")
    if options.precision in QUANTIZED:
        check_layer_names(graph, options.keep_float)
    exported = _trace(graph, options)
    name_axes(exported, options)
    reduce_node_metadata(exported)
    target = {"opset": str(options.opset)}
    if options.precision in QUANTIZED:
        assert calibration is not None
        batches = list(calibration_batches(calibration, encoder_of(model).preprocessing, options))
        kept_float = quantize(exported, graph, batches, QUANT_TYPES[options.precision], options.keep_float)
        named = [name for name in kept_float if not (HEAD in options.keep_float and name.startswith(f"{HEAD}."))]
        target |= {"float_layers": ", ".join(named)} if named else {}
    elif isinstance(model, Encoder):
        add_weight_locations(exported, model)
    onnx.checker.check_model(exported, full_check=True)
    write_model(exported, path)
    return target | float_head_note(model, options)


def _trace(graph: AnyGraph, options: ExportOptions) -> onnx.ModelProto:
    names = [INPUT], list(options.outputs)
    return trace_module(graph, (example_input(options),), dynamic_shapes(options), names, options.opset)


def trace_module(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, names: tuple[list[str], list[str]], opset: int
) -> onnx.ModelProto:
    """Convert a module with torch's dynamo exporter.

    Args:
        module: The module.
        inputs: Inputs to trace with.
        shapes: Dynamic axes of the inputs, for torch.export.
        names: Names of inputs and outputs.
        opset: Opset of the graph.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tracing():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=names[0],
            output_names=names[1],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def name_axes(model: onnx.ModelProto, options: ExportOptions) -> None:
    """Name the dynamic axes batch, height and width; torch.export names them by its own expressions."""
    images = model.graph.input[0].type.tensor_type.shape.dim
    for dim, axis in zip(images, AXES[options.layout], strict=True):
        if dim.dim_param:
            dim.dim_param = axis
    grid = ("batch", None, f"height//{options.height.step}", f"width//{options.width.step}")
    names = {LOGITS: ("batch", None, "height", "width"), MASK: ("batch", "height", "width")}.get(options.output, grid)
    if options.output in DETECTIONS:
        names = ("batch",)
    for output in model.graph.output:
        for dim, name in zip(output.type.tensor_type.shape.dim, names, strict=False):
            if name and dim.dim_param:
                dim.dim_param = name
    del model.graph.value_info[:]  # written with the old names; readers infer it again


def reduce_node_metadata(model: onnx.ModelProto) -> None:
    """Keep the name of each node's layer; drop stack traces, which name folders of the exporting machine."""
    for node in model.graph.node:
        layer = layer_of(node)
        del node.metadata_props[:]
        if layer:
            node.metadata_props.add(key=LAYER_KEY, value=layer)


def add_weight_locations(model: onnx.ModelProto, encoder: Encoder) -> None:
    """Store the result of `locate_weights` in the model's metadata if the graph holds every weight unchanged.

    Such a file can itself be the source of an export.
    """
    locations = locate_weights(model, split_position_embeddings(encoder))
    if locations:
        model.metadata_props.add(key=WEIGHTS_KEY, value=json.dumps(locations))


def locate_weights(model: onnx.ModelProto, weights: dict[str, torch.Tensor]) -> dict[str, tuple[str, bool]]:
    """Find the initializers that hold the encoder's weights.

    Weights are matched by content: the exporter transposes the weights of linear layers, renames them, and keeps only
    one of several equal tensors.

    Returns:
        By name of the weight, the name of the initializer and whether it holds the transpose; {} if a weight is
        missing because it was cast or resampled.
    """
    locations: dict[tuple[tuple[int, ...], bytes], tuple[str, bool]] = {}
    for tensor in model.graph.initializer:
        value = to_array(tensor)
        locations.setdefault(tensor_digest(value), (tensor.name, False))
        if value.ndim == 2:
            locations.setdefault(tensor_digest(value.T), (tensor.name, True))
    located = {name: locations.get(tensor_digest(weight.numpy())) for name, weight in weights.items()}
    return {} if None in located.values() else {name: location for name, location in located.items() if location}


def has_weights(path: Path) -> bool:
    """Return whether an ONNX file holds the encoder's weights for `read_weights`."""
    return metadata_value(read_model(path, with_weights=False), WEIGHTS_KEY) is not None


def read_weights(model: onnx.ModelProto, path: Path) -> dict[str, torch.Tensor]:
    """Read the encoder's weights (timm's key names) out of a model that `export_onnx` wrote.

    Args:
        model: The model.
        path: Its file, for errors.

    Raises:
        ValueError: The model holds no float32 weights of a gtsa-kit encoder, or lost some of them.
    """
    locations = metadata_value(model, WEIGHTS_KEY)
    if locations is None:
        raise ValueError(
            f"{path} holds no float32 weights of a gtsa-kit encoder; name the run or the weights that it was exported "
            "from"
        )
    stored = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    located: dict[str, tuple[str, bool]] = json.loads(locations)
    lost = [name for name, (initializer, _) in located.items() if initializer not in stored]
    if lost:
        raise ValueError(
            f"{path} was changed by another tool: {len(lost)} of its {len(located)} weights are gone or renamed, "
            f"such as {lost[0]}; name the run or the weights that it was exported from"
        )
    weights = {
        name: torch.from_numpy(np.array(stored[initializer].T if transposed else stored[initializer]))
        for name, (initializer, transposed) in located.items()
    }
    return join_position_embeddings(weights)
