"""Manifest of an artifact: `<file>.json` beside it, and for ONNX also the `metadata_props` of the model."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import pydantic

from gtsa_kit.export.layout import AXES, CHANNELS, InputFormat, Layout
from gtsa_kit.export.manifest_records import (
    AxisRange,
    EngineRecord,
    HeadRecord,
    LabelRecord,
    SourceRecord,
    TaskScoreRecord,
    TensorSpec,
)
from gtsa_kit.export.parity_report import ParityReport, Record
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP, InputType, OutputKind, Range
from gtsa_kit.files import final_path, first_problem, write_text
from gtsa_kit.version import __version__

SCHEMA = 1
METADATA_KEY = "gtsa_kit"
"""Key of an ONNX model's metadata that holds the manifest."""


class Manifest(Record):
    """Description of an artifact for other tools and for people."""

    schema_version: int = SCHEMA
    gtsa_kit: str = __version__
    kind: Literal["encoder", "task", "head"] = "encoder"
    """Part of a model: an encoder, an encoder with a head, or a head alone, which takes an encoder's outputs."""
    format: str
    precision: str
    target: dict[str, str]
    """Versions and settings of the runtime that the artifact is for."""
    source_sha256: str
    """SHA-256 of the source weights."""
    source: SourceRecord = SourceRecord()
    weights_sha256: str = ""
    """Digest of the encoder's weights (`models.weights.weights_digest`), which are the same in any file."""
    content_sha256: str = ""
    """Digest of what the artifact computes (`formats.content.content_digest`): the report is of this content alone."""
    checksum: str = ""
    """SHA-256 of the other fields, except the location of the source; it shows that a manifest was edited."""
    architecture: dict[str, Any]
    dim: int
    """Width of the embedding and of the feature maps."""
    preprocessing: dict[str, Any]
    """See `models.preprocessing.Preprocessing`."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: dict[str, AxisRange]
    task: str | None = None
    """"segment", "classify" or "detect"; None for encoders, like all fields up to `task_score`."""
    labels: tuple[LabelRecord, ...] = ()
    """Classes by class number."""
    label_masks: Literal["index", "color"] = "index"
    """Meaning of the ids of labels in masks: indices, or colors as 0xRRGGBB."""
    output: OutputKind = "features"
    """Meaning of the output: features of an encoder, logits of classes, the mask of class numbers, or detections: boxes
    alone or instances with masks."""
    short_side: int | None = None
    """Short side of an input in pixels, where images keep their aspect ratio; None stretches them to the square of the
    preprocessing."""
    long_side: int = 0
    """Largest long side of an input in pixels, with `short_side`; 0 is unbounded."""
    crop_from: int = 0
    """Short side in pixels to which an image is resized before the square of the preprocessing is cut from its center;
    0 stretches the image."""
    box_format: str | None = None
    """Meaning of the four numbers of a box; None for other tasks, like all fields up to `size_multiple`."""
    mask_format: str | None = None
    """Meaning of a mask of a detection; None for boxes alone."""
    score_threshold: float | None = None
    """Score that every detection exceeds, 0 to 1."""
    max_detections: int | None = None
    """Number of detections of an image; slots that are not used have the score 0."""
    size_multiple: int | None = None
    """Divisor of the height and the width of an input, in pixels."""
    head: HeadRecord | None = None
    task_score: TaskScoreRecord | None = None
    """Score on labeled images, if it was measured at the export."""
    parity: ParityReport | None = None
    engine: EngineRecord | None = None
    """Build record, for TensorRT engines alone."""

    @property
    def expected_checksum(self) -> str:
        """Value of `checksum` that belongs to the other fields."""
        fields = self.model_dump(mode="json", exclude={"checksum": True, "source": {"path", "relative"}})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the blocks whose feature maps are outputs."""
        prefix = f"{FEATURE_MAP}_"
        return tuple(int(spec.name.removeprefix(prefix)) for spec in self.outputs if spec.name.startswith(prefix))

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the outputs with one vector for an image."""
        return tuple(spec.name for spec in self.outputs if spec.name in (EMBEDDING, CLASS_TOKEN))

    @property
    def has_class_token(self) -> bool:
        """True if the class token is an output."""
        return CLASS_TOKEN in self.vectors

    @property
    def embedding(self) -> str:
        """Kind of embedding, one of `models.architecture.EMBEDDINGS`."""
        return str(self.architecture.get("embedding", "mean"))

    @property
    def layout(self) -> Layout:
        """Layout of the images that the artifact takes."""
        return self.inputs[0].image_layout

    @property
    def input_format(self) -> InputFormat:
        """Dtype and layout of the images that the artifact takes."""
        images = self.inputs[0]
        return InputFormat(images.samples, self.layout, self.patch, images.dtype)

    @property
    def input_type(self) -> InputType:
        """Elements of the images, as the option --input names them."""
        dtype, samples = self.inputs[0].dtype, self.inputs[0].samples
        return "float32-samples" if samples and dtype == "float32" else dtype  # type: ignore[return-value]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.architecture["patch"])

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return int(self.inputs[0].shape[self.input_axes.index(CHANNELS)])

    @property
    def input_axes(self) -> tuple[str, ...]:
        """Names of the input's axes; "3" are the channels, of which RGB has three."""
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


def write_manifest(artifact: Path, manifest: Manifest) -> Manifest:
    """Write `<file>.json`, atomically; return the manifest with its checksum and the relative path of the source."""
    manifest = manifest.model_copy(update={"source": _relate(manifest.source, artifact)})
    manifest = manifest.model_copy(update={"checksum": manifest.expected_checksum})
    write_text(manifest_path(artifact), json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")
    return manifest


def _relate(source: SourceRecord, artifact: Path) -> SourceRecord:
    if not source.path:
        return source
    try:
        relative = Path(os.path.relpath(source.path, final_path(artifact.resolve()).parent)).as_posix()
    except ValueError:  # another drive of Windows
        relative = ""
    return source.model_copy(update={"relative": relative})


def read_manifest(artifact: Path) -> Manifest:
    """Read the manifest beside an artifact, `<file>.json`, as it is; `formats.content` checks what it says.

    Raises:
        ValueError: The manifest is missing, or is not valid in this version.
    """
    return parse_manifest(read_manifest_text(artifact), str(manifest_path(artifact)))


def read_manifest_text(artifact: Path) -> str:
    """Return the text of the manifest beside an artifact.

    Raises:
        ValueError: The manifest is missing, or can't be read.
    """
    path = manifest_path(artifact)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
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
        problem = first_problem(error)
        raise ValueError(f"{origin} is not a gtsa-kit manifest of schema {SCHEMA}: {problem}") from error
