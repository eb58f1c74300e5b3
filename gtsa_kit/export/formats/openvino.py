"""Encoder to OpenVINO."""

import logging
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.graph import ExportGraph, dynamic_shapes, example_input
from gtsa_kit.export.runtime.backends import import_openvino
from gtsa_kit.export.spec import INPUT, Options
from gtsa_kit.files import sync_folder
from gtsa_kit.models.encoder import Encoder

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "bf16"}


def export_openvino(
    encoder: Encoder, options: Options, path: Path, calibration: Calibration | None = None
) -> dict[str, str]:
    """Write `path` (.xml) and its weights beside it (.bin).

    The graph is float32 and OpenVINO lowers it where it runs, as the manifest's `inference_precision` says: its own
    kernels keep what needs float32, and are faster than a graph of casts. fp16 stores halved weights; bf16 has no such
    storage in OpenVINO, so its file is as large as that of fp32.

    Returns:
        The manifest's target.
    """
    ov = import_openvino()
    work = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        if options.precision == "int8":
            export_onnx(encoder, options, work / "int8.onnx", calibration)
            model = ov.Core().read_model(str(work / "int8.onnx"))
        else:
            model = _convert(_program(encoder, replace(options, precision="fp32")))
        _name(model, options)
        ov.save_model(model, str(work / path.name), compress_to_fp16=options.precision == "fp16")
        # The weights first: a description without them would be no model.
        for suffix in (".bin", ".xml"):
            made = work / path.with_suffix(suffix).name
            _flush(made)
            os.replace(made, path.with_suffix(suffix))
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"openvino": ov.__version__.partition("-")[0], "inference_precision": HINTS[options.precision]}


def _program(encoder: Encoder, options: Options) -> torch.export.ExportedProgram:
    graph = ExportGraph(encoder, options, split_qkv=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(graph, (example_input(options),), dynamic_shapes=dynamic_shapes(options))


def _convert(program: torch.export.ExportedProgram) -> Any:
    """By the front end itself: `openvino.convert_model` also reports its use over the network."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    front_end = FrontEndManager().load_by_framework("pytorch")
    logging.disable(logging.WARNING)  # it logs the operators that this torch no longer has
    decoder = TorchFXPythonDecoder.from_exported_program(program)  # the front end does not keep it alive
    model = front_end.convert(front_end.load(decoder))
    logging.disable(logging.NOTSET)
    return model


def _name(model: Any, options: Options) -> None:
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, options.outputs, strict=True):
        output.get_tensor().set_names({name})


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
