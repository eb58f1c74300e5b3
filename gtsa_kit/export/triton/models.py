"""Models of a repository for NVIDIA Triton: an artifact that passed its parity gate, and its preprocessing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from gtsa_kit.export.formats.content import CHANGED, open_manifest
from gtsa_kit.export.input_types import check_input
from gtsa_kit.export.layout import AXES, arrange
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import TensorSpec
from gtsa_kit.export.spec import INPUT, SUFFIX, InputType
from gtsa_kit.export.triton.config import (
    NORMALIZED,
    ServingOptions,
    check_serving,
    encoder_config,
    max_batch_size,
    preprocess_config,
)
from gtsa_kit.export.triton.ensemble_config import ensemble_config
from gtsa_kit.export.triton.repository import RepositoryModel
from gtsa_kit.models.preprocessing import Preprocessing

OPSET: Final = 18
IR_VERSION: Final = 8
"""IR version that every server with this opset can read."""


def open_artifact(path: Path, gate: Callable[[str, Manifest], Manifest] | None = None) -> Manifest:
    """Return the manifest of an `.onnx` or `.engine` file that can be served.

    Args:
        path: The file.
        gate: Function of the reason and the manifest that compares an ONNX file whose report is not of its content, and
            returns the manifest with a report; None rejects such a file.

    Raises:
        ValueError: The file was not exported by gtsa-kit, is damaged, failed its parity gate, or can't run on
            Triton.
    """
    opened = open_manifest(path)
    manifest = opened.manifest
    if path.suffix != SUFFIX["onnx"]:
        _check_engine(path, manifest, opened.problem)
    if opened.problem and gate and path.suffix == SUFFIX["onnx"]:
        manifest = gate(opened.problem, manifest)
    report = manifest.parity or (manifest.engine.graph.parity if manifest.engine else None)
    if report is None:
        reason = f"has no parity report: {opened.problem}" if opened.problem else "has not been through a parity gate"
        raise ValueError(f"{path} {reason}; export it again with gtsa export")
    if not report.passed:
        raise ValueError(f"{path} failed its parity gate; gtsa verify shows the difference")
    return manifest


def _check_engine(path: Path, manifest: Manifest, problem: str) -> None:
    record = manifest.engine
    if record is None:
        raise ValueError(f"{path}.json is the manifest of a {manifest.format} file, not of an engine; export it again")
    if record.variant != "tensorrt":
        raise ValueError(
            f"{path} is an engine of {record.variant}, but Triton runs engines of TensorRT only; build one with gtsa "
            f"export --format trt --runtime tensorrt, or serve {record.graph.file}, the same graph"
        )
    if problem == CHANGED:
        raise ValueError(f"{path} is not the engine that {path.name}.json describes; copy both, or export it again")


def repository_models(
    artifact: Path, manifest: Manifest, serving: ServingOptions, input_type: InputType = "float32"
) -> list[RepositoryModel]:
    """Return the models of the repository, in an order in which each model follows those that it uses.

    Args:
        artifact: File to serve.
        manifest: Manifest of the file.
        serving: Settings of the model.
        input_type: Images that clients send, see `ExportOptions.input`. For samples, and an artifact of normalized
            images, the repository gets a preprocessing graph, and an ensemble of the two under the model's name.

    Raises:
        ValueError: The artifact can't be served with the settings.
    """
    check_serving(manifest.format, manifest.precision, manifest.range_of("batch"), serving)
    ensemble = needs_preprocessing(artifact, manifest, input_type)
    name = f"{serving.name}_floats" if ensemble else serving.name
    encoder = RepositoryModel(encoder_config(manifest, serving, name), manifest, artifact)
    if not ensemble:
        return [encoder]
    preprocessing = preprocess_manifest(manifest, input_type)
    config = preprocess_config(preprocessing, serving, f"{serving.name}_preprocess")
    preprocess = RepositoryModel(config, content=preprocess_graph(preprocessing))
    outputs = {spec.name: spec.name for spec in manifest.outputs}
    steps = [
        (preprocess.name, {INPUT: INPUT}, {NORMALIZED: NORMALIZED}),
        (encoder.name, {manifest.inputs[0].name: NORMALIZED}, outputs),
    ]
    max_batch = max_batch_size(manifest.range_of("batch"), serving.max_batch)
    whole = ensemble_config(serving.name, max_batch, preprocessing.inputs[0], manifest.outputs, steps)
    return [preprocess, encoder, RepositoryModel(whole)]


def needs_preprocessing(artifact: Path, manifest: Manifest, input_type: InputType) -> bool:
    """Return whether clients send samples, and the artifact takes normalized images.

    Raises:
        ValueError: The model has samples of another type, or the artifact takes other samples.
    """
    check_input(input_type, Preprocessing.from_dict(manifest.preprocessing))
    own = manifest.input_type
    if input_type != "float32" and own not in ("float32", input_type):
        raise ValueError(f"{artifact} takes images of {own} as it is; omit --input")
    return input_type != "float32" and own == "float32"


def preprocess_manifest(encoder: Manifest, input_type: InputType) -> Manifest:
    """Return the manifest of the preprocessing: the ranges of the encoder, samples in, the encoder's input out."""
    images = encoder.inputs[0]
    lengths = dict(zip(encoder.input_axes, images.shape, strict=True))
    shape = arrange("nhwc", lengths["batch"], lengths["height"], lengths["width"], encoder.channels)
    dtype = input_type.removesuffix("-samples")
    return encoder.model_copy(
        update={
            "format": "onnx",
            "inputs": (TensorSpec(name=INPUT, dtype=dtype, shape=shape, layout="nhwc", samples=True),),
            "outputs": (images.model_copy(update={"name": NORMALIZED}),),
        }
    )


def preprocess_graph(manifest: Manifest) -> bytes:
    """Build the ONNX graph from samples (B, H, W, N) to normalized float32 in the layout of the manifest's output."""
    import onnx
    from onnx import helper, numpy_helper

    layout, preprocessing = manifest.outputs[0].image_layout, Preprocessing.from_dict(manifest.preprocessing)
    order = [AXES["nhwc"].index(axis) for axis in AXES[layout]]
    own = {"mean": preprocessing.mean, "std": preprocessing.std}
    limits = (
        {"low": preprocessing.samples.low, "high": preprocessing.samples.high} if preprocessing.samples.clip else {}
    )
    constants = {"scale": np.float32(preprocessing.scale)} | {
        name: np.asarray(values, np.float32).reshape(arrange(layout, 1, 1, 1, manifest.channels))
        for name, values in (own | limits).items()
    }
    clipped = "below" if limits else "arranged"
    nodes = [
        helper.make_node("Cast", [INPUT], ["numbers"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["arranged"], perm=order),
        *([helper.make_node("Max", ["arranged", "low"], ["above"])] if limits else []),
        *([helper.make_node("Min", ["above", "high"], ["below"])] if limits else []),
        helper.make_node("Div", [clipped, "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], [NORMALIZED]),
    ]
    graph = helper.make_graph(
        nodes,
        "preprocess",
        [_value(manifest.inputs[0])],
        [_value(manifest.outputs[0])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _value(spec: TensorSpec) -> Any:
    from onnx import TensorProto, helper

    kind = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}[spec.dtype]
    return helper.make_tensor_value_info(spec.name, kind, list(spec.shape))
