"""Manifest of an artifact: `<file>.json` beside it, and for ONNX also the `metadata_props` of the model."""

import json
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict

from gtsa_kit.export.layout import AXES, InputFormat, Layout, layout_of
from gtsa_kit.export.spec import FEATURE_MAP, Range
from gtsa_kit.files import write_text
from gtsa_kit.version import __version__

SCHEMA = 1
METADATA_KEY = "gtsa_kit"
"""Key of an ONNX model's metadata that holds the manifest."""


class Record(BaseModel):
    """Immutable model that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Record):
    """Name, dtype and shape of one input or output; a dimension is a number or the name of a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: Layout | None = None
    """Order of the axes of a batch of images; None for other tensors."""

    @property
    def image_layout(self) -> Layout:
        """Layout of a batch of images, from the shape where it is not given."""
        return self.layout or layout_of(self.shape)


class AxisRange(Record):
    """Allowed values of a dynamic axis. A `max` of None is no bound."""

    min: int
    max: int | None
    multiple_of: int


class Difference(Record):
    """Difference between reference and artifact for one output and one input shape."""

    output: str
    batch: int
    height: int
    width: int
    max_abs: float
    mean_abs: float
    min_cosine: float
    mean_cosine: float
    neighbors: float | None
    """Share of tokens with the same nearest neighbor, 0 to 1; None for fewer than three tokens."""
    image: str
    """Name of the image with the lowest cosine."""
    passed: bool


class ParityReport(Record):
    """Result and measurements of the parity gate."""

    reference: str = "gtsa-kit encoder, float32, PyTorch"
    runtime: str
    """Runtime and device that ran the artifact, for display."""
    images: str
    """Origin of the images, for display."""
    tolerance: dict[str, float]
    preprocessing: str = ""
    """Difference between the manifest's preprocessing and the encoder's; "" if they are equal."""
    passed: bool
    differences: tuple[Difference, ...]

    @property
    def worst(self) -> Difference:
        """Difference with the lowest cosine, then the largest absolute difference; failed ones precede passed ones."""
        return min(self.differences, key=lambda d: (d.passed, d.min_cosine, -d.max_abs))


class GraphRecord(Record):
    """ONNX graph beside an engine, from which the engine was built."""

    file: str
    sha256: str
    opset: int
    parity: ParityReport | None
    """Parity of the graph in ONNX Runtime; None for another tool's graph, which has no reference encoder."""


class EngineRecord(Record):
    """Build record of a TensorRT engine."""

    variant: str
    """"tensorrt" or "tensorrt-rtx"."""
    version: str
    """Version of the library."""
    capabilities: tuple[str, ...]
    """Compute capabilities that the engine runs on; "later" stands for future GPUs."""
    profile: tuple[tuple[int, ...], ...]
    """Minimum, optimal and maximum shape of the input; () for a graph with a fixed shape."""
    sha256: str
    """SHA-256 of the engine file."""
    graph: GraphRecord
    parity: str
    """Comparison of the engine itself: "run", or "not run: " and the reason."""
    optimization_level: int | None
    workspace_gib: float | None
    seconds: float
    """Duration of the build."""


class Manifest(Record):
    """Description of an artifact for other tools and for people."""

    schema_version: int = SCHEMA
    gtsa_kit: str = __version__
    format: str
    precision: str
    target: dict[str, str]
    """Versions and settings of the runtime that the artifact is for."""
    source_sha256: str
    """SHA-256 of the source weights."""
    architecture: dict[str, Any]
    dim: int
    """Width of the embedding and of the feature maps."""
    preprocessing: dict[str, Any]
    """See `models.encoder.Preprocessing`."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: dict[str, AxisRange]
    parity: ParityReport | None = None
    engine: EngineRecord | None = None
    """Build record, for TensorRT engines alone."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the blocks whose feature maps are outputs."""
        named = (spec.name.removeprefix(f"{FEATURE_MAP}_") for spec in self.outputs[2:])
        return tuple(int(name) for name in named)

    @property
    def layout(self) -> Layout:
        """Layout of the images that the artifact takes."""
        return self.inputs[0].image_layout

    @property
    def input_format(self) -> InputFormat:
        """Dtype and layout of the images that the artifact takes."""
        return InputFormat(self.inputs[0].dtype == "uint8", self.layout, self.patch)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.architecture["patch"])

    @property
    def input_axes(self) -> tuple[str, ...]:
        """Names of the input's axes; "3" are the color channels."""
        return AXES[self.layout]

    def range_of(self, axis: str) -> Range:
        """Return the allowed lengths of "batch", "height" or "width"."""
        if axis in self.axes:
            allowed = self.axes[axis]
            return Range(allowed.min, allowed.max, allowed.multiple_of)
        fixed = self.inputs[0].shape[self.input_axes.index(axis)]
        return Range(int(fixed), int(fixed))

    def check_axis(self, axis: str, value: int) -> None:
        """Raise `ValueError` unless `value` is an allowed length of an input axis."""
        allowed = self.range_of(axis)
        if allowed.fixed and value != allowed.min:
            raise ValueError(f"{axis} is fixed at {allowed.min} in this artifact, got {value}")
        nearest = allowed.clamp(value)
        if value != nearest:
            limit = f"at least {allowed.min}" if allowed.max is None else f"{allowed.min} to {allowed.max}"
            steps = "" if allowed.step == 1 else f" and multiples of {allowed.step}"
            raise ValueError(f"{axis} must be {limit}{steps}, got {value}; nearest: {nearest}")


def manifest_path(artifact: Path) -> Path:
    """Return the path of an artifact's manifest: `encoder.onnx.json` for `encoder.onnx`."""
    return artifact.with_name(artifact.name + ".json")


def graph_path(engine: Path) -> Path:
    """Return the path of the graph that an engine was built from: `encoder.engine.onnx` for `encoder.engine`."""
    return engine.with_name(engine.name + ".onnx")


def write_manifest(artifact: Path, manifest: Manifest) -> None:
    """Write `<file>.json`, atomically."""
    write_text(manifest_path(artifact), json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")


def read_manifest(artifact: Path) -> Manifest:
    """Read the manifest beside an artifact, `<file>.json`.

    Raises:
        ValueError: The manifest is missing, or is not valid in this version.
    """
    path = manifest_path(artifact)
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ValueError(f"{artifact} has no manifest beside it ({path.name}); export it again") from error


def parse_manifest(text: str, origin: str) -> Manifest:
    """Parse a manifest.

    Args:
        text: JSON.
        origin: Name of the file, for the error.

    Raises:
        ValueError: The text is not a valid manifest.
    """
    try:
        return Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{origin} is not a gtsa-kit manifest of schema {SCHEMA}: {where}: {first['msg']}") from error
