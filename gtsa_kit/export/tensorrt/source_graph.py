"""The ONNX file that an engine is built from, of ours or of anybody's."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.formats.onnx_file import read_onnx_manifest
from gtsa_kit.export.formats.onnx_graph import read_graph_info
from gtsa_kit.export.manifest import METADATA_KEY, AxisRange, Manifest, TensorSpec
from gtsa_kit.export.runtime.engine_header import FOREIGN_GRAPH
from gtsa_kit.export.runtime.profile import InputRanges, Profile
from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, Precision, Range
from gtsa_kit.files import sha256_of

if TYPE_CHECKING:
    from onnx import ModelProto

BASE = 224
MAX_FILE_BYTES = 2**31 - 1
"""Of what protobuf can write."""


@dataclass(frozen=True)
class SourceGraph:
    """A graph with its weights inside, and its manifest if it is one of ours."""

    path: Path
    model: "ModelProto"
    sha256: str
    """Of the file."""
    manifest: Manifest | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def folder(self) -> Path:
        """Where its engine goes unless told otherwise."""
        return self.path.parent

    @property
    def base(self) -> int:
        """Side of the images that it was trained on."""
        return int(self.manifest.preprocessing["size"]) if self.manifest else BASE

    @property
    def dynamic(self) -> bool:
        """Whether the input has an axis without a number."""
        return any(isinstance(length, str) for length in self.inputs[0].shape)

    @property
    def uint8_input(self) -> bool:
        """Whether it takes (B, H, W, 3) bytes."""
        return self.inputs[0].dtype == "uint8"

    def ranges(self) -> InputRanges:
        """What it takes; None as an end where it says none."""
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
        """Raise `ValueError` unless the graph takes every shape of a profile."""
        shape = self.inputs[0].shape
        for name, wanted in (("smallest", profile.min), ("usual", profile.opt), ("largest", profile.max)):
            for given, length in zip(shape, wanted, strict=True):
                if isinstance(given, int) and given != length:
                    raise ValueError(
                        f"{self.path.name} takes {_words(shape)} and the {name} shape asked for is {_words(wanted)}; "
                        "set --batch, --size or --min-size, --opt-size and --max-size to suit"
                    )
            if self.manifest:
                for axis, length in zip(self.manifest.input_layout, wanted, strict=True):
                    if axis != "3":
                        self.manifest.check_axis(axis, length)

    def describe(self, precision: Precision) -> Manifest:
        """What its engine's manifest says of the model: its own manifest, or the little that a foreign file says."""
        if self.manifest:
            return self.manifest.model_copy(update={"precision": precision})
        names = ("batch", "height", "width") if self.uint8_input else ("batch", "3", "height", "width")
        dynamic = [name for name, length in zip(names, self.inputs[0].shape, strict=False) if isinstance(length, str)]
        return Manifest(
            format="trt",
            precision="as the graph",
            target={},
            source_sha256=self.sha256,
            architecture={"name": FOREIGN_GRAPH},
            dim=0,
            preprocessing={},
            inputs=self.inputs,
            outputs=self.outputs,
            axes={name: AxisRange(min=1, max=None, multiple_of=1) for name in dynamic},
        )


def read_graph_file(path: Path) -> SourceGraph:
    """Read an ONNX file whole, with weights that lie beside it.

    Raises:
        ValueError: Not an ONNX file, larger than one file can be, or with other inputs than one of images.
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
        raise ValueError(f"{path} is larger than 2 GB with its weights, more than one ONNX file holds")
    facts = read_graph_info(model, path.parent)
    _check_input(path, facts.inputs)
    ours = any(entry.key == METADATA_KEY for entry in model.metadata_props)
    manifest = read_onnx_manifest(path) if ours else None
    return SourceGraph(path, model, sha256_of(path), manifest, facts.inputs, facts.outputs)


def _check_input(path: Path, inputs: tuple[TensorSpec, ...]) -> None:
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or 3 not in (inputs[0].shape[1], inputs[0].shape[-1]):
        said = ", ".join(f"{spec.name} ({_words(spec.shape)})" for spec in inputs) or "none"
        raise ValueError(
            f"{path} does not take a batch of images: its inputs are {said}; a ViT has one, of (batch, 3, height, "
            "width) or (batch, height, width, 3)"
        )


def _words(shape: tuple[int | str, ...] | tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
