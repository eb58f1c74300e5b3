"""Specification of artifacts: formats, precisions, options, and the tolerances of the parity gate.

Every tolerance is defined here, and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from gtsa_kit.export.layout import Layout

Format = Literal["onnx", "torchscript", "pt2", "openvino", "trt"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
InputType = Literal["float32", "uint8"]
OutputKind = Literal["features", "logits", "mask"]
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
    """float32: normalized (B, 3, H, W). uint8: RGB (B, H, W, 3), normalized inside the graph."""
    output: OutputKind = "features"
    """Outputs: features of an encoder; logits or the mask of their maxima of a task model."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay float32 in a lower precision: `HEAD`, or names of layers in int8 and fp8."""

    def __post_init__(self) -> None:
        """Check every option."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.input not in get_args(InputType):
            raise ValueError(f"--input takes float32 or uint8, got {self.input!r}")
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
    def layout(self) -> Layout:
        """Layout of the images: uint8 images are the pixels as a decoder gives them."""
        return "nhwc" if self.input == "uint8" else "nchw"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the graph's order."""
        if self.output != "features":
            return (self.output,)
        maps = (layer_output(layer) for layer in self.layers)
        return (EMBEDDING, FEATURE_MAP, *maps, *([CLASS_TOKEN] if self.class_token else []))


def _check_size(name: str, size: Range) -> None:
    if size.min < 1:
        raise ValueError(f"sizes are at least 1 pixel, got a {name} of {size.min}")
    if size.max is not None and size.max < size.min:
        raise ValueError(f"the minimum {name} {size.min} is above the maximum {size.max}")


@dataclass(frozen=True)
class Tolerance:
    """Bounds on the difference from the float32 PyTorch encoder; an artifact passes if it is within every bound."""

    max_abs: float
    """Maximum absolute difference of one number."""
    mean_abs: float
    """Maximum mean absolute difference of an output."""
    min_cosine: float
    """Minimum cosine of a patch token (of an image, for embeddings) with that of the reference."""
    neighbors: float
    """Minimum share of patch tokens with the same nearest neighbor among all others, 0 to 1."""


# Worst values that the gate measured over all cases and formats, with ViT-S/16 and random weights of real variance:
# fp32 5e-6, 5e-7, 1 - 3e-13, all neighbors; fp16 3.4e-3, 4.6e-4, 0.9999998, all; bf16 2.9e-2, 3.9e-3, 0.999986, 0.985;
# int8 0.15, 1.8e-2, 0.99976, 0.849; fp8 0.30, 4.0e-2, 0.99874, 0.813. With trained weights (a DINOv2 ViT-S, whose
# features are twice as large, and whose inputs of some layers have outliers of 30 times their root mean square):
# fp32 8e-5, 4e-6, 1, all; fp16 3.9e-2, 3.2e-3, 0.999984, 0.992; bf16 0.79, 6.0e-2, 0.9956, 0.925;
# int8 2.1, 0.30, 0.975, 0.86 with the layers of MIN_LAYER_COSINE in float32 (3.8, 0.25, 0.882, 0.731 without);
# fp8 2.4, 0.28, 0.954, 0.829. tf32 has as many mantissa bits as fp16, and needs a GPU. The bounds leave room for other
# weights and other machines' arithmetic. An error of 1% in one layer lies far above those of fp32.
TOLERANCES: Final[dict[str, Tolerance]] = {
    "fp32": Tolerance(max_abs=2e-4, mean_abs=2e-5, min_cosine=0.999999, neighbors=0.995),
    "tf32": Tolerance(max_abs=1e-1, mean_abs=1e-2, min_cosine=0.9999, neighbors=0.98),
    "fp16": Tolerance(max_abs=1e-1, mean_abs=1e-2, min_cosine=0.9999, neighbors=0.98),
    "bf16": Tolerance(max_abs=1.5, mean_abs=1e-1, min_cosine=0.99, neighbors=0.9),
    "int8": Tolerance(max_abs=4.0, mean_abs=4e-1, min_cosine=0.95, neighbors=0.75),
    "fp8": Tolerance(max_abs=4.0, mean_abs=4e-1, min_cosine=0.93, neighbors=0.75),
}


@dataclass(frozen=True)
class TaskTolerance:
    """Bounds on the difference from the float32 PyTorch task model.

    Differences of logits are relative to the standard deviation of the reference's logits from the mean of their pixel
    or image: heads give logits of any scale.
    """

    max_abs: float
    """Maximum absolute difference of one logit, in standard deviations."""
    mean_abs: float
    """Maximum mean absolute difference, in standard deviations; classes whose logits are nearer than that are tied."""
    agreement: float
    """Minimum share of pixels or images whose best class is that of the reference, or tied with it."""


# Worst values over all heads and cases, as maximum, mean and agreement. Heads with random weights of real variance:
# fp32 1e-5, 1.2e-6, all; fp16 2.9e-3, 7.5e-4, 0.99997; bf16 1.4e-2, 3.1e-3, all; int8 0.18, 3.0e-2, 0.996. A trained
# FPN head on the frozen maps of a ViT-S/14 (CamVid, 52% mIoU): fp32 4e-6, 4e-7, all; fp16 1.6e-3, 2.1e-4, all;
# bf16 3.2e-2, 3.4e-3, all; int8 8.8e-2, 1.1e-2, all, and 0.05 points of mIoU. An error of 1% in one layer of a head
# lies above the bounds of fp32.
TASK_TOLERANCES: Final[dict[str, TaskTolerance]] = {
    "fp32": TaskTolerance(max_abs=2e-4, mean_abs=2e-5, agreement=0.9999),
    "tf32": TaskTolerance(max_abs=2e-2, mean_abs=2e-3, agreement=0.995),
    "fp16": TaskTolerance(max_abs=2e-2, mean_abs=2e-3, agreement=0.995),
    "bf16": TaskTolerance(max_abs=2e-1, mean_abs=2e-2, agreement=0.98),
    "int8": TaskTolerance(max_abs=1.0, mean_abs=1e-1, agreement=0.93),
    "fp8": TaskTolerance(max_abs=1.0, mean_abs=1e-1, agreement=0.93),
}
MAX_FOLD_DIFFERENCE: Final = 1e-5
"""Maximum difference of features after LayerScale is folded into other layers, relative to the largest feature.

It is float32 rounding alone: 3e-6 on a trained DINOv2 ViT-S.
"""
MIN_LAYER_COSINE: Final = 0.9985
"""A linear layer stays float32 in int8 and fp8 if quantizing it alone turns a patch of the calibration images further.

Random weights have no such layer. A trained DINOv2 ViT-S has six of 48 in int8: fc1 of block 0, and fc2 of blocks 0, 2,
6, 7 and 8.
"""
