"""What an artifact says of itself: `<file>.json`, and in ONNX also the model's own metadata."""

import json
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict

from gtsa_kit import __version__
from gtsa_kit.config import PATCH
from gtsa_kit.export.spec import FEATURE_MAP, Range
from gtsa_kit.files import write_text

SCHEMA = 1
METADATA_KEY = "gtsa_kit"


class Record(BaseModel):
    """Immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Record):
    """One input or output; a dimension is a number or the name of a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class AxisRange(Record):
    """Allowed values of a dynamic axis; `max` None is no bound."""

    min: int
    max: int | None
    multiple_of: int


class Difference(Record):
    """Reference against artifact for one output and one input shape."""

    output: str
    batch: int
    height: int
    width: int
    max_abs: float
    mean_abs: float
    min_cosine: float
    mean_cosine: float
    neighbors: float | None
    """Share of tokens whose nearest neighbor is the same; None where there are fewer than three tokens."""
    image: str
    """The image that holds the worst token."""
    passed: bool


class ParityReport(Record):
    """The gate's verdict and everything that it measured."""

    reference: str = "gtsa-kit encoder, float32, PyTorch"
    runtime: str
    images: str
    tolerance: dict[str, float]
    preprocessing: str = ""
    """How the artifact's account of its preprocessing differs from the encoder's; "" if it does not."""
    passed: bool
    differences: tuple[Difference, ...]

    @property
    def worst(self) -> Difference:
        """The difference with the lowest cosine; among equals the largest absolute one. A failed one comes first."""
        return min(self.differences, key=lambda d: (d.passed, d.min_cosine, -d.max_abs))


class GraphRecord(Record):
    """The ONNX graph that an engine was built from, which lies beside it."""

    file: str
    sha256: str
    opset: int
    parity: ParityReport | None
    """Of the graph in ONNX Runtime; None of a graph that is not ours, which has no float32 encoder to compare with."""


class EngineRecord(Record):
    """What a TensorRT plan was built from, with what, and for what."""

    variant: str
    version: str
    capabilities: tuple[str, ...]
    """Compute capabilities that it runs on; "later" for GPUs to come."""
    profile: tuple[tuple[int, ...], ...]
    """Smallest, usual and largest shape of the input; () where the graph has but one."""
    sha256: str
    """Of the plan."""
    graph: GraphRecord
    parity: str
    """Whether the engine itself was compared: "run", or "not run: " and why."""
    optimization_level: int | None
    workspace_gib: float | None
    seconds: float
    """That the build took."""


class Manifest(Record):
    """Everything that another tool, or a person, must know to use the artifact."""

    schema_version: int = SCHEMA
    gtsa_kit: str = __version__
    format: str
    precision: str
    target: dict[str, str]
    source_sha256: str
    architecture: dict[str, Any]
    dim: int
    preprocessing: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: dict[str, AxisRange]
    parity: ParityReport | None = None
    engine: EngineRecord | None = None
    """Of TensorRT engines only."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose maps are outputs."""
        named = (spec.name.removeprefix(f"{FEATURE_MAP}_") for spec in self.outputs[2:])
        return tuple(int(name) for name in named)

    @property
    def input_layout(self) -> tuple[str, ...]:
        """Meaning of the input's axes."""
        byte_layout, layout = ("batch", "height", "width", "3"), ("batch", "3", "height", "width")
        return byte_layout if self.inputs[0].dtype == "uint8" else layout

    def range_of(self, axis: str) -> Range:
        """What "batch", "height" or "width" may be."""
        if axis in self.axes:
            return Range(self.axes[axis].min, self.axes[axis].max)
        fixed = self.inputs[0].shape[self.input_layout.index(axis)]
        return Range(int(fixed), int(fixed))

    def check_axis(self, axis: str, value: int) -> None:
        """Raise `ValueError` unless an input's axis may have this length."""
        allowed = self.range_of(axis)
        if allowed.fixed and value != allowed.min:
            raise ValueError(f"{axis} is fixed at {allowed.min} in this artifact, got {value}")
        step = 1 if axis == "batch" else PATCH
        if value % step or value != allowed.clamp(value):
            limit = f"at least {allowed.min}" if allowed.max is None else f"{allowed.min} to {allowed.max}"
            near = allowed.clamp(max(1, round(value / step)) * step)
            steps = "" if step == 1 else f" and multiples of {step}"
            raise ValueError(f"{axis} must be {limit}{steps}, got {value}; nearest: {near}")


def manifest_path(artifact: Path) -> Path:
    """`encoder.onnx` to `encoder.onnx.json`."""
    return artifact.with_name(artifact.name + ".json")


def graph_path(engine: Path) -> Path:
    """`encoder.engine` to `encoder.engine.onnx`, the graph that it was built from."""
    return engine.with_name(engine.name + ".onnx")


def write_manifest(artifact: Path, manifest: Manifest) -> None:
    """Write `<file>.json`, all at once."""
    write_text(manifest_path(artifact), json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")


def read_manifest(artifact: Path) -> Manifest:
    """Read `<file>.json`.

    Raises:
        ValueError: It is missing, or is not a manifest that this version knows.
    """
    path = manifest_path(artifact)
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ValueError(f"{artifact} has no manifest beside it ({path.name}); export it again") from error


def parse_manifest(text: str, origin: str) -> Manifest:
    """JSON text to a manifest, else `ValueError` naming `origin`."""
    try:
        return Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{origin} is not a gtsa-kit manifest of schema {SCHEMA}: {where}: {first['msg']}") from error
