"""Specification of artifacts: formats, precisions, names of outputs, and options."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from gtsa_kit.export.layout import Layout

Format = Literal["onnx", "torchscript", "pt2", "openvino", "trt"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
InputType = Literal["float32", "uint8", "uint16", "float32-samples"]
"""Images that a graph takes: normalized float32, or samples as the files have them, which the graph clips and
normalizes; float32-samples are the same samples as float32."""
OutputKind = Literal["features", "logits", "mask", "boxes", "instances"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)
SUFFIX: Final[Mapping[str, str]] = {
    "onnx": ".onnx",
    "torchscript": ".ts",
    "pt2": ".pt2",
    "openvino": ".xml",
    "trt": ".engine",
}
SUPPORTED_PRECISIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "onnx": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "torchscript": ("fp32", "fp16", "bf16"),
    "pt2": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "trt": PRECISIONS,
}
"""Precisions by format. int8 and fp8 are Q/DQ graphs, which ONNX, OpenVINO and TensorRT read; tf32 is a way to multiply
float32 matrices and changes no graph, so TensorRT alone has it."""
QUANTIZED: Final = ("int8", "fp8")
"""Precisions that need calibration images for the ranges of activations."""
FRAMEWORKS: Final = ("timm", "hf", "mmseg", "mmdet", "detectron2")
"""Frameworks that `formats.frameworks` writes checkpoints for."""
OPSET: Final = 20
"""Default opset of ONNX: the first with a native Gelu (LayerNormalization came with 17)."""
OPSETS: Final = range(18, 24)
"""Supported opsets of ONNX."""

INPUT: Final = "images"
EMBEDDING: Final = "embedding"
FEATURE_MAP: Final = "feature_map"
CLASS_TOKEN: Final = "class_token"  # noqa: S105
LOGITS: Final = "logits"
MASK: Final = "mask"
BOXES: Final = "boxes"
SCORES: Final = "scores"
LABELS: Final = "labels"
MASKS: Final = "masks"
DETECTIONS: Final = {"boxes": (BOXES, SCORES, LABELS), "instances": (BOXES, SCORES, LABELS, MASKS)}
"""Outputs of detectors by kind of output."""
HEAD: Final = "head"
"""Part of a task model that maps features to logits."""


def layer_output(layer: int) -> str:
    """Return the output name of one block's feature map, such as "feature_map_5"."""
    return f"{FEATURE_MAP}_{layer}"


@dataclass(frozen=True)
class Range:
    """Allowed values of a dimension: multiples of `step` from `min` to `max`, both included.

    A `max` of None is no bound.
    """

    min: int
    max: int | None
    step: int = 1

    @property
    def fixed(self) -> bool:
        """True if one value alone is allowed."""
        return self.min == self.max

    def clamp(self, value: int) -> int:
        """Return the nearest allowed value."""
        nearest = max(1, round(value / self.step)) * self.step
        return max(self.min, nearest if self.max is None else min(nearest, self.max))

    def in_steps(self, step: int, name: str) -> "Range":
        """Return the multiples of a step within this range; a minimum of 1 is no bound.

        Raises:
            ValueError: An end is no multiple of the step.
        """
        ends = [*([] if self.min == 1 else [self.min]), *([] if self.max is None else [self.max])]
        if wrong := [end for end in ends if end % step]:
            nearest = max(1, round(wrong[0] / step)) * step
            raise ValueError(f"sizes are multiples of {step}, got a {name} of {wrong[0]}; the nearest is {nearest}")
        return Range(max(self.min, step), self.max, step)


ANY_SIZE: Final = Range(1, None)
ANY_BATCH: Final = Range(1, None)


@dataclass(frozen=True)
class ExportOptions:
    """Options of one artifact.

    Raises:
        ValueError: An option is invalid; the message names what is allowed.
    """

    precision: Precision = "fp32"
    height: Range = ANY_SIZE
    """Input height in pixels; a minimum of 1 is no bound."""
    width: Range = ANY_SIZE
    """Input width in pixels; a minimum of 1 is no bound."""
    batch: Range = ANY_BATCH
    layers: tuple[int, ...] = ()
    """Indices of blocks whose feature maps are outputs too."""
    class_token: bool = False
    """True adds the class token after the final norm to the outputs."""
    opset: int = OPSET
    """Opset of ONNX graphs."""
    input: InputType = "float32"
    """float32: normalized (B, N, H, W). Others: samples (B, H, W, N), normalized inside the graph."""
    output: OutputKind = "features"
    """Outputs: features of an encoder; logits or the mask of their maxima of a task model; detections of a detector."""
    channels: int = 3
    """Number of channels of the images; `task_graph.options_for` takes it from the model."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay float32 in a lower precision: `HEAD`, or names of layers in int8 and fp8."""

    def __post_init__(self) -> None:
        """Check every option."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.input not in get_args(InputType):
            raise ValueError(f"--input takes {' or '.join(get_args(InputType))}, got {self.input!r}")
        if self.output not in get_args(OutputKind):
            raise ValueError(f"--output takes logits or mask, got {self.output!r}")
        if self.opset not in OPSETS:
            raise ValueError(f"opset {self.opset} is not supported; choose {OPSETS[0]} to {OPSETS[-1]}")
        _check_size("height", self.height)
        _check_size("width", self.width)
        if self.batch.min < 1 or (self.batch.max is not None and self.batch.max < self.batch.min):
            raise ValueError(f"a batch is N, or MIN:MAX with 1 <= MIN <= MAX, got {self.batch.min}:{self.batch.max}")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"--layers names a layer twice: {','.join(map(str, self.layers))}")
        if self.height.fixed != self.width.fixed:
            raise ValueError("either both height and width are fixed, or neither")

    def in_patches(self, patch: int) -> "ExportOptions":
        """Return the options with heights and widths that are multiples of a patch size.

        Raises:
            ValueError: An end of a range is no multiple of it.
        """
        height, width = self.height.in_steps(patch, "height"), self.width.in_steps(patch, "width")
        return replace(self, height=height, width=width)

    @property
    def takes_samples(self) -> bool:
        """True if the graph takes samples, and clips and normalizes them."""
        return self.input != "float32"

    @property
    def dtype(self) -> str:
        """Type of the elements of the images."""
        return self.input.removesuffix("-samples")

    @property
    def layout(self) -> Layout:
        """Layout of the images: samples are the pixels as a decoder gives them."""
        return "nhwc" if self.takes_samples else "nchw"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the graph's order."""
        if self.output != "features":
            return DETECTIONS.get(self.output, (self.output,))
        maps = (layer_output(layer) for layer in self.layers)
        return (EMBEDDING, FEATURE_MAP, *maps, *([CLASS_TOKEN] if self.class_token else []))


def _check_size(name: str, size: Range) -> None:
    if size.min < 1:
        raise ValueError(f"sizes are at least 1 pixel, got a {name} of {size.min}")
    if size.max is not None and size.max < size.min:
        raise ValueError(f"the minimum {name} {size.min} is above the maximum {size.max}")
