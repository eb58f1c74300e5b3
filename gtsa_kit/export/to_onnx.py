"""Encoder to ONNX."""

import hashlib
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx.numpy_helper import to_array

from gtsa_kit.encoder import Encoder
from gtsa_kit.export.graph import ExportGraph, example_input
from gtsa_kit.export.manifest import METADATA_KEY, Manifest
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, INPUT, OPSET
from gtsa_kit.files import atomic_write

WEIGHTS_KEY = "gtsa_kit_weights"


def export_onnx(encoder: Encoder, path: Path) -> dict[str, str]:
    """Write one ONNX file with dynamic batch, height and width, and no Resize operator.

    Returns:
        The manifest's target.
    """
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            ExportGraph(encoder),
            (example_input(),),
            dynamo=True,
            dynamic_shapes=(dims,),
            input_names=[INPUT],
            output_names=[EMBEDDING, FEATURE_MAP],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    table = weight_table(model, encoder.vit.state_dict())
    model.metadata_props.add(key=WEIGHTS_KEY, value=json.dumps(table))
    onnx.checker.check_model(model, full_check=True)
    _write(model, path)
    return {"opset": str(OPSET)}


def weight_table(model: onnx.ModelProto, weights: dict[str, torch.Tensor]) -> dict[str, tuple[str, bool]]:
    """Where each of the encoder's weights is in the graph: its initializer, and whether that holds the transpose.

    Found by content, since the exporter turns the weights of linear layers, renames them, and keeps only one of
    several equal tensors.
    """
    places: dict[tuple[tuple[int, ...], bytes], tuple[str, bool]] = {}
    for tensor in model.graph.initializer:
        value = to_array(tensor)
        places.setdefault(_digest(value), (tensor.name, False))
        if value.ndim == 2:
            places.setdefault(_digest(value.T), (tensor.name, True))
    return {name: places[_digest(weight.numpy())] for name, weight in weights.items()}


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
        raise ValueError(f"{path} was not exported by gtsa-kit, so its weights have no known names")
    stored = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    return {
        name: torch.from_numpy(np.array(stored[place].T if turned else stored[place]))
        for name, (place, turned) in json.loads(table).items()
    }


def _digest(value: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return value.shape, hashlib.sha256(value.tobytes()).digest()


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
