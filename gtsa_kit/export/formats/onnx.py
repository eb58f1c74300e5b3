"""Encoder to ONNX."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx.numpy_helper import to_array

from gtsa_kit.config import PATCH
from gtsa_kit.export.formats.onnx_graph import LAYER_KEY, layer_of
from gtsa_kit.export.formats.quantize import GRIDS, Calibration, calibration_batches, digest, quantize
from gtsa_kit.export.graph import ExportGraph, dynamic_shapes, example_input, join_parts, weight_parts
from gtsa_kit.export.manifest import METADATA_KEY, Manifest
from gtsa_kit.export.spec import INPUT, QUANTIZED, Options
from gtsa_kit.files import atomic_write
from gtsa_kit.models.encoder import Encoder

WEIGHTS_KEY = "gtsa_kit_weights"


def export_onnx(
    encoder: Encoder, options: Options, path: Path, calibration: Calibration | None = None
) -> dict[str, str]:
    """Write one ONNX file without a Resize operator, dynamic where the options leave it so.

    Args:
        encoder: In float32.
        options: What to write.
        path: Where to.
        calibration: Images that give int8 and fp8 their ranges; these alone need them.

    Returns:
        The manifest's target.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph = ExportGraph(encoder, options, attention="explicit")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example_input(options),),
            dynamo=True,
            dynamic_shapes=dynamic_shapes(options),
            input_names=[INPUT],
            output_names=list(options.outputs),
            opset_version=options.opset,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    name_axes(model, options)
    for node in model.graph.node:
        layer = layer_of(node)
        del node.metadata_props[:]  # stack traces, with folders of the machine that exported
        if layer:
            node.metadata_props.add(key=LAYER_KEY, value=layer)
    if options.precision in QUANTIZED:
        assert calibration is not None
        batches = list(calibration_batches(calibration, encoder.preprocessing, options))
        quantize(model, graph, batches, GRIDS[options.precision])
    else:
        remember_weights(model, encoder)
    onnx.checker.check_model(model, full_check=True)
    _write(model, path)
    return {"opset": str(options.opset)}


def name_axes(model: onnx.ModelProto, options: Options) -> None:
    """Call the dynamic axes by the names of the contract; torch.export calls them by what it computed with."""
    images = model.graph.input[0].type.tensor_type.shape.dim
    order = ("batch", "height", "width", None) if options.input == "uint8" else ("batch", None, "height", "width")
    for dim, name in zip(images, order, strict=True):
        if name and dim.dim_param:
            dim.dim_param = name
    grid = ("batch", None, f"height//{PATCH}", f"width//{PATCH}")
    for output in model.graph.output:
        for dim, name in zip(output.type.tensor_type.shape.dim, grid, strict=False):
            if name and dim.dim_param:
                dim.dim_param = name
    del model.graph.value_info[:]  # in terms of the old names; whoever needs them infers them


def remember_weights(model: onnx.ModelProto, encoder: Encoder) -> None:
    """Note in the file where the encoder's weights are, if all are there as they were: then it can be a source."""
    table = weight_table(model, weight_parts(encoder))
    if table:
        model.metadata_props.add(key=WEIGHTS_KEY, value=json.dumps(table))


def weight_table(model: onnx.ModelProto, weights: dict[str, torch.Tensor]) -> dict[str, tuple[str, bool]]:
    """Where each of the encoder's weights is in the graph: its initializer, and whether that holds the transpose.

    Found by content, since the exporter turns the weights of linear layers, renames them, and keeps only one of
    several equal tensors. {} if one is not there: halved, or resampled for a fixed size.
    """
    places: dict[tuple[tuple[int, ...], bytes], tuple[str, bool]] = {}
    for tensor in model.graph.initializer:
        value = to_array(tensor)
        places.setdefault(digest(value), (tensor.name, False))
        if value.ndim == 2:
            places.setdefault(digest(value.T), (tensor.name, True))
    found = {name: places.get(digest(weight.numpy())) for name, weight in weights.items()}
    return {} if None in found.values() else {name: place for name, place in found.items() if place}


def has_weights(path: Path) -> bool:
    """Whether `read_weights` would find them."""
    model = onnx.load(path, load_external_data=False)
    return any(entry.key == WEIGHTS_KEY for entry in model.metadata_props)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The encoder's weights under timm's key names, out of a file that `export_onnx` wrote.

    Raises:
        ValueError: Not an ONNX file, or not one of ours.
    """
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
    table = next((entry.value for entry in model.metadata_props if entry.key == WEIGHTS_KEY), None)
    if table is None:
        raise ValueError(f"{path} holds no float32 weights of ours; name the run or the weights that it came from")
    stored = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    parts = {
        name: torch.from_numpy(np.array(stored[place].T if turned else stored[place]))
        for name, (place, turned) in json.loads(table).items()
    }
    return join_parts(parts)


def embed_manifest(path: Path, manifest: Manifest) -> None:
    """Put the manifest into the file's own metadata, in place of an earlier one; the graph stays as it is."""
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=METADATA_KEY, value=manifest.model_dump_json())
    _write(model, path)


def _write(model: onnx.ModelProto, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
