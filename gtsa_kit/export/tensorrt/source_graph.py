"""ONNX file that an engine is built from, exported by gtsa-kit or by another tool."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.formats.onnx_file import read_model
from gtsa_kit.export.formats.onnx_graph import patch_steps, read_graph_info
from gtsa_kit.export.layout import AXES, CHANNELS, Layout, choose_layout
from gtsa_kit.export.manifest import METADATA_KEY, Manifest
from gtsa_kit.export.manifest_records import AxisRange, TensorSpec
from gtsa_kit.export.runtime.engine_header import THIRD_PARTY_GRAPH
from gtsa_kit.export.runtime.profile import InputRanges, Profile
from gtsa_kit.export.spec import ANY_BATCH, Precision, Range
from gtsa_kit.files import sha256_of

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_SIDE = 224
"""Default side of the images for a file without a manifest, in pixels."""
RANGE_HINTS: Final = {
    "batch": "omit --batch",
    "height": "omit --size, --min-size and --max-size",
    "width": "omit --size, --min-size and --max-size",
}
"""Hints for a graph with a fixed axis."""
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
    report_problem: str = ""
    """Reason why the manifest has no parity report though the file came with one; see `formats.content`."""

    @property
    def folder(self) -> Path:
        """Default folder of the engine."""
        return self.path.parent

    @property
    def stem(self) -> str:
        """Default name of the engine without its suffix."""
        return self.path.stem

    @property
    def default_side(self) -> int:
        """Side of the images that the model was trained on, in pixels."""
        return int(self.manifest.preprocessing["size"]) if self.manifest else DEFAULT_SIDE

    @property
    def dynamic(self) -> bool:
        """True if the input has a dynamic axis."""
        return any(isinstance(length, str) for length in self.inputs[0].shape)

    @property
    def layout(self) -> Layout:
        """Layout of the images that the graph takes."""
        return self.inputs[0].image_layout

    @property
    def channels(self) -> int:
        """Number of channels of the images that the graph takes."""
        return int(self.inputs[0].shape[self.axes.index(CHANNELS)])

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the input's axes."""
        return AXES[self.layout]

    @property
    def lengths(self) -> dict[str, int | str]:
        """Lengths of the input's axes by name; that of a dynamic axis is a string."""
        return dict(zip(self.axes, self.inputs[0].shape, strict=True))

    def ranges(self) -> InputRanges:
        """Return the ranges that the graph accepts; a maximum that the file does not state is None."""
        if self.manifest:
            batch, height, width = (self.manifest.range_of(axis) for axis in ("batch", "height", "width"))
            return InputRanges(batch, height, width, self.layout, self.channels)
        steps = {"batch": 1, **patch_steps(self.model, self.lengths)}
        batch, height, width = (
            Range(length, length) if isinstance(length := self.lengths[axis], int) else Range(step, None, step)
            for axis, step in steps.items()
        )
        return InputRanges(batch, height, width, self.layout, self.channels)

    def restrict(self, batch: Range, height: Range, width: Range) -> InputRanges:
        """Return the ranges that the graph accepts within the requested ones.

        Raises:
            ValueError: The graph does not accept an end of a requested range; the message names the axis.
        """
        own = self.ranges()
        return InputRanges(
            own.batch if batch == ANY_BATCH else self._restrict("batch", own.batch, batch),
            self._restrict("height", own.height, Range(own.height.min if height.min == 1 else height.min, height.max)),
            self._restrict("width", own.width, Range(own.width.min if width.min == 1 else width.min, width.max)),
            self.layout,
            self.channels,
        )

    def _restrict(self, axis: str, own: Range, requested: Range) -> Range:
        restricted = Range(requested.min, own.max if requested.max is None else requested.max, own.step)
        for end in (restricted.min, restricted.max):
            if end is None or end == own.clamp(end):
                continue
            if own.fixed:
                raise ValueError(f"{self.path.name} has a fixed {axis} of {own.min}, got {end}; {RANGE_HINTS[axis]}")
            limit = f"at least {own.min}" if own.max is None else f"{own.min} to {own.max}"
            steps = "" if own.step == 1 else f" and multiples of {own.step}"
            raise ValueError(
                f"{axis} must be {limit}{steps} in {self.path.name}, got {end}; the nearest is {own.clamp(end)}"
            )
        return restricted

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
                for axis, length in zip(self.manifest.input_axes, requested, strict=True):
                    if axis != CHANNELS:
                        self.manifest.check_axis(axis, length)

    def base_manifest(self, precision: Precision) -> Manifest:
        """Return the manifest of the model that the engine's manifest is made from.

        It is the graph's own manifest; for another tool's file, it holds only the tensors and the hash.
        """
        if self.manifest:
            return self.manifest.model_copy(update={"precision": precision})
        dynamic = [axis for axis, length in self.lengths.items() if isinstance(length, str)]
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
            axes={
                name: AxisRange(min=allowed.min, max=allowed.max, multiple_of=allowed.step)
                for name in dynamic
                for allowed in [getattr(self.ranges(), name)]
            },
        )


def read_graph_file(path: Path, layout: Layout | None = None) -> SourceGraph:
    """Read an ONNX file together with external weights. A dynamic axis of channels is fixed at its manifest's, or 3.

    Args:
        path: The file.
        layout: Layout of the images, for a graph whose shape allows both; None reads it from the shape.

    Raises:
        ValueError: The file is not an ONNX file, is larger than 2 GB, or has inputs other than one batch of images; or
            its layout is ambiguous, or is not the given one.
    """
    model = read_model(path)
    if not model.graph.node:
        raise ValueError(f"{path} is not an ONNX file: it holds no graph")
    if model.ByteSize() > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than 2 GB with its weights, which is the limit of one ONNX file")
    info = read_graph_info(model, path.parent)
    has_manifest = any(entry.key == METADATA_KEY for entry in model.metadata_props)
    opened = open_manifest(path, model) if has_manifest else None  # before the model is modified
    manifest, problem = (opened.manifest, opened.problem) if opened else (None, "")
    images = _image_input(path, info.inputs, layout, manifest.channels if manifest else 3)
    _fix_channels(model, images)
    return SourceGraph(path, model, sha256_of(path), manifest, (images,), info.outputs, problem)


def _image_input(path: Path, inputs: tuple[TensorSpec, ...], requested: Layout | None, channels: int) -> TensorSpec:
    """Return the input with its layout, and with the number of channels as the length of their axis."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{spec.name} ({_format_shape(spec.shape)})" for spec in inputs) or "none"
        raise ValueError(
            f"{path} does not take a batch of images: its inputs are {listed}; a ViT has one, of (batch, 3, height, "
            "width) or (batch, height, width, 3)"
        )
    shape = inputs[0].shape
    layout = choose_layout(shape, requested, str(path), channels)
    fixed = tuple(channels if axis == CHANNELS else length for axis, length in zip(AXES[layout], shape, strict=True))
    return inputs[0].model_copy(update={"shape": fixed, "layout": layout})


def _fix_channels(model: "ModelProto", images: TensorSpec) -> None:
    """Write the number of channels into the model: TensorRT builds no convolution over a dynamic number of them."""
    (value,) = (value for value in model.graph.input if value.name == images.name)
    value.type.tensor_type.shape.dim[AXES[images.image_layout].index(CHANNELS)].dim_value = int(
        images.shape[AXES[images.image_layout].index(CHANNELS)]
    )


def _format_shape(shape: tuple[int | str, ...] | tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
