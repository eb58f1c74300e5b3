"""ONNX file that an engine is built from, exported by gtsa-kit or by another tool."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.formats.onnx_file import read_onnx_manifest
from gtsa_kit.export.formats.onnx_graph import read_graph_info
from gtsa_kit.export.manifest import METADATA_KEY, AxisRange, Manifest, TensorSpec
from gtsa_kit.export.runtime.engine_header import THIRD_PARTY_GRAPH
from gtsa_kit.export.runtime.profile import InputRanges, Profile
from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, Precision, Range
from gtsa_kit.files import sha256_of

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_SIDE = 224
"""Default side of the images for a file without a manifest, in pixels."""
MAX_FILE_BYTES = 2**31 - 1
"""Largest message that protobuf can write."""


@dataclass(frozen=True)
class SourceGraph:
    """ONNX model with its weights inside, and its manifest if gtsa-kit exported it."""

    path: Path
    model: "ModelProto"
    sha256: str
    """Hash of the file."""
    manifest: Manifest | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def folder(self) -> Path:
        """Default folder of the engine."""
        return self.path.parent

    @property
    def default_side(self) -> int:
        """Side of the images that the model was trained on, in pixels."""
        return int(self.manifest.preprocessing["size"]) if self.manifest else DEFAULT_SIDE

    @property
    def dynamic(self) -> bool:
        """True if the input has a dynamic axis."""
        return any(isinstance(length, str) for length in self.inputs[0].shape)

    @property
    def uint8_input(self) -> bool:
        """True if images are (B, H, W, 3) uint8, not (B, 3, H, W) float32."""
        return self.inputs[0].dtype == "uint8"

    def ranges(self) -> InputRanges:
        """Return the ranges that the graph accepts; a maximum that the file does not state is None."""
        if self.manifest:
            batch, height, width = (self.manifest.range_of(axis) for axis in ("batch", "height", "width"))
            return InputRanges(batch, height, width, self.uint8_input)
        first = 1 if self.uint8_input else 2
        shape = self.inputs[0].shape
        batch, height, width = (
            Range(length, length) if isinstance(length, int) else any_length
            for length, any_length in zip(
                (shape[0], shape[first], shape[first + 1]), (ANY_BATCH, ANY_SIZE, ANY_SIZE), strict=True
            )
        )
        return InputRanges(batch, height, width, self.uint8_input)

    def check_profile(self, profile: Profile) -> None:
        """Raise `ValueError` unless the graph accepts every shape of a profile."""
        shape = self.inputs[0].shape
        for name, requested in (("minimum", profile.min), ("optimal", profile.opt), ("maximum", profile.max)):
            for fixed, length in zip(shape, requested, strict=True):
                if isinstance(fixed, int) and fixed != length:
                    raise ValueError(
                        f"{self.path.name} takes {_format_shape(shape)}, but the {name} shape is "
                        f"{_format_shape(requested)}; set --batch, --size or --min-size, --opt-size and --max-size to "
                        "match"
                    )
            if self.manifest:
                for axis, length in zip(self.manifest.input_layout, requested, strict=True):
                    if axis != "3":
                        self.manifest.check_axis(axis, length)

    def base_manifest(self, precision: Precision) -> Manifest:
        """Return the manifest of the model that the engine's manifest is made from.

        It is the graph's own manifest; for another tool's file, it holds only the tensors and the hash.
        """
        if self.manifest:
            return self.manifest.model_copy(update={"precision": precision})
        names = ("batch", "height", "width") if self.uint8_input else ("batch", "3", "height", "width")
        dynamic = [name for name, length in zip(names, self.inputs[0].shape, strict=False) if isinstance(length, str)]
        return Manifest(
            format="trt",
            precision="as the graph",
            target={},
            source_sha256=self.sha256,
            architecture={"name": THIRD_PARTY_GRAPH},
            dim=0,
            preprocessing={},
            inputs=self.inputs,
            outputs=self.outputs,
            axes={name: AxisRange(min=1, max=None, multiple_of=1) for name in dynamic},
        )


def read_graph_file(path: Path) -> SourceGraph:
    """Read an ONNX file together with external weights.

    Raises:
        ValueError: The file is not an ONNX file, is larger than 2 GB, or has inputs other than one batch of images.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
    if not model.graph.node:
        raise ValueError(f"{path} is not an ONNX file: it holds no graph")
    if model.ByteSize() > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than 2 GB with its weights, which is the limit of one ONNX file")
    info = read_graph_info(model, path.parent)
    _check_input(path, info.inputs)
    has_manifest = any(entry.key == METADATA_KEY for entry in model.metadata_props)
    manifest = read_onnx_manifest(path) if has_manifest else None
    return SourceGraph(path, model, sha256_of(path), manifest, info.inputs, info.outputs)


def _check_input(path: Path, inputs: tuple[TensorSpec, ...]) -> None:
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or 3 not in (inputs[0].shape[1], inputs[0].shape[-1]):
        listed = ", ".join(f"{spec.name} ({_format_shape(spec.shape)})" for spec in inputs) or "none"
        raise ValueError(
            f"{path} does not take a batch of images: its inputs are {listed}; a ViT has one, of (batch, 3, height, "
            "width) or (batch, height, width, 3)"
        )


def _format_shape(shape: tuple[int | str, ...] | tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
