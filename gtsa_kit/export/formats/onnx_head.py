"""ONNX files of heads, which take the outputs of an exported encoder."""

from pathlib import Path
from typing import Any

import onnx
import torch

from gtsa_kit.export.build_manifest import describe_task
from gtsa_kit.export.formats.onnx import reduce_node_metadata, trace_module
from gtsa_kit.export.formats.onnx_file import write_model
from gtsa_kit.export.head_graph import HeadGraph, head_inputs
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import AxisRange, TensorSpec
from gtsa_kit.export.spec import LOGITS, ExportOptions
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.weights import describe_encoder

AXES = ("batch", "rows", "columns")
"""Names of the dynamic axes of a head's inputs."""


def export_onnx_head(model: TaskModel, options: ExportOptions, path: Path) -> Manifest:
    """Write the head of a task model as an ONNX file; return its manifest without digests and report.

    Raises:
        ValueError: The head takes maps that no exported encoder gives.
    """
    graph, names = HeadGraph(model, options), head_inputs(model.spec)
    classify, width = model.spec.task == "classify", model.encoder.architecture.width
    # The sizes differ, so that torch.export does not treat two as one.
    examples = tuple(torch.zeros(2, width) if classify else torch.zeros(2, width, 6, 4) for _ in names)
    axes = {0: 0} if classify else {0: 0, 2: 1, 3: 2}
    dims = [torch.export.Dim(name, min=1) for name in AXES]
    shape = {axis: dims[number] for axis, number in axes.items()}
    shapes: Any = (tuple(shape for _ in names),)
    exported = trace_module(graph, examples, shapes, (list(names), [LOGITS]), options.opset)
    for value in exported.graph.input:
        for axis, number in axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = AXES[number]
    del exported.graph.value_info[:]
    reduce_node_metadata(exported)
    onnx.checker.check_model(exported, full_check=True)
    write_model(exported, path)
    return _manifest(model, options, names)


def _manifest(model: TaskModel, options: ExportOptions, names: tuple[str, ...]) -> Manifest:
    encoder, spec = model.encoder, model.spec
    description, width = describe_encoder(encoder.architecture, encoder.preprocessing), encoder.architecture.width
    factor = 4 if spec.head == "fpn" and spec.pyramid == "strided" else 1
    grid: tuple[str, ...] = () if spec.task == "classify" else ("rows", "columns")
    finer = tuple(name if factor == 1 else f"{factor}*{name}" for name in grid)
    manifest = Manifest(
        format="onnx",
        precision=options.precision,
        target={"opset": str(options.opset)},
        source_sha256="",
        architecture=description["architecture"],
        dim=width,
        preprocessing=description["preprocessing"],
        inputs=tuple(TensorSpec(name=name, dtype="float32", shape=("batch", width, *grid)) for name in names),
        outputs=(TensorSpec(name=LOGITS, dtype="float32", shape=("batch", spec.classes, *finer)),),
        axes={name: AxisRange(min=1, max=None, multiple_of=1) for name in ("batch", *grid)},
    )
    return describe_task(manifest, model, options).model_copy(update={"kind": "head", "output": LOGITS})
