"""OpenVINO export."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.openvino_library import import_openvino
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.formats.tracing import tracing
from gtsa_kit.export.graph import dynamic_shapes, example_input
from gtsa_kit.export.spec import INPUT, ExportOptions
from gtsa_kit.export.task_graph import build_graph, options_for
from gtsa_kit.files import sync_file, sync_folder
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel

INFERENCE_PRECISIONS: Final = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "bf16"}
"""Precision that OpenVINO computes in, by the precision of the artifact."""


def export_openvino(
    model: Encoder | TaskModel, options: ExportOptions, path: Path, calibration: Calibration | None = None
) -> dict[str, str]:
    """Write `path` (.xml) and its weights beside it (.bin).

    The graph is float32. The runner compiles it for the `inference_precision` in the manifest: OpenVINO's kernels keep
    float32 where that is needed, and are faster than a graph of casts. fp16 stores weights in half precision; OpenVINO
    has no such storage for bf16, so a bf16 file is as large as an fp32 file.

    Args:
        model: Encoder or task model in float32.
        options: Precision, sizes, layers and input type.
        path: The .xml file to write.
        calibration: Images that set the ranges of activations; required for int8 only.

    Returns:
        The `target` of the manifest.

    Raises:
        ValueError: OpenVINO is not installed, or layers are to stay float32 in another precision than int8.
    """
    quantized: dict[str, str] = {}
    openvino, options = import_openvino(), options_for(model, options)
    if options.keep_float and options.precision != "int8":
        raise ValueError(f"OpenVINO chooses the layers that stay float32 in {options.precision}; omit --keep-float")
    work = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        if options.precision == "int8":
            graph = export_onnx(model, options, work / "int8.onnx", calibration)
            quantized = {name: value for name, value in graph.items() if name != "opset"}
            converted = openvino.Core().read_model(str(work / "int8.onnx"))
        else:
            converted = _convert_model(model, replace(options, precision="fp32"))
        _name_tensors(converted, options)
        openvino.save_model(converted, str(work / path.name), compress_to_fp16=options.precision == "fp16")
        # The weights first: an .xml without its .bin can't be opened.
        for suffix in (".bin", ".xml"):
            written = work / path.with_suffix(suffix).name
            sync_file(written)
            os.replace(written, path.with_suffix(suffix))
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "openvino": openvino.__version__.partition("-")[0],
        "inference_precision": INFERENCE_PRECISIONS[options.precision],
        **quantized,
    }


def _convert_model(model: Encoder | TaskModel, options: ExportOptions) -> Any:
    """Return the OpenVINO model of a model."""
    if options.input != "uint16":
        return _convert(_export_program(model, options))
    # The front end has no uint16: it gets the graph of the same samples as float32, and OpenVINO converts its input.
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(_convert(_export_program(model, replace(options, input="float32-samples"))))
    steps.input().tensor().set_element_type(Type.u16)
    return steps.build()


def _export_program(model: Encoder | TaskModel, options: ExportOptions) -> torch.export.ExportedProgram:
    graph = build_graph(model, options, split_qkv=True)
    with tracing():
        return torch.export.export(graph, (example_input(options),), dynamic_shapes=dynamic_shapes(options))


def _convert(program: torch.export.ExportedProgram) -> Any:
    """Convert a program with OpenVINO's front end; `openvino.convert_model` would also send usage statistics."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    front_end = FrontEndManager().load_by_framework("pytorch")
    logging.disable(logging.WARNING)  # it logs the operators that this torch no longer has
    decoder = TorchFXPythonDecoder.from_exported_program(program)  # the front end does not keep it alive
    model = front_end.convert(front_end.load(decoder))
    logging.disable(logging.NOTSET)
    return model


def _name_tensors(model: Any, options: ExportOptions) -> None:
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, options.outputs, strict=True):
        output.get_tensor().set_names({name})
