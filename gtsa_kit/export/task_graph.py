"""Module that is exported for a task model: the encoder's graph, the head, and the size of the input again."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.export.detector_graph import DetectorGraph
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.graph_layers import Attention
from gtsa_kit.export.head_graph import export_head
from gtsa_kit.export.input_types import check_input
from gtsa_kit.export.layout import AXES
from gtsa_kit.export.spec import HEAD, MASK, QUANTIZED, ExportOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.eomt import UPSCALE
from gtsa_kit.models.query_detections import query_detections
from gtsa_kit.models.task_model import TaskModel, encoder_of


class TaskGraph(nn.Module):
    """Task model that maps images to (logits,) float32, to (mask,) uint8, or to detections.

    Matrix products and convolutions are cast as in `ExportGraph`; norms, resizing and sums of maps stay float32. In
    bf16 the head is float32.
    """

    def __init__(
        self, model: TaskModel, options: ExportOptions, attention: Attention = "fused", split_qkv: bool = False
    ) -> None:
        """Copy the model's weights; see `ExportGraph` for the arguments.

        Args:
            model: Task model in float32; it is not modified.
            options: Options of `options_for` the model.
            attention: See `ExportGraph`.
            split_qkv: See `ExportGraph`.
        """
        super().__init__()
        self.spec, self.returns_mask = model.spec, options.output == MASK
        self.patch = model.encoder.architecture.patch
        layers = tuple(sorted(set(model.spec.layers)))
        encoder_options = replace(options, layers=layers, class_token=False, output="features")
        self.encoder = ExportGraph(model.encoder, encoder_options, attention, split_qkv)
        head = export_head(model.head, options)
        self.head = DetectorGraph(head) if model.spec.detector and model.spec.head != "eomt" else head
        self.axes = AXES[options.layout].index("height"), AXES[options.layout].index("width")
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs for images: normalized (B, N, H, W) float32, or samples (B, H, W, N)."""
        size = [images.shape[axis] for axis in self.axes]
        if isinstance(self.head, DetectorGraph):
            return self.head(self.features(images), *size)  # type: ignore[no-any-return]
        logits = self.head(*self.features(images))
        if self.spec.detector:
            detections = query_detections(logits, self.spec.detector, self.patch / UPSCALE)
            return tuple(one for one in detections if one is not None)
        if self.spec.task == "segment":
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return (logits.argmax(dim=1).to(torch.uint8),) if self.returns_mask else (logits,)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the inputs of the head; see `TaskModel.features`."""
        features = self.encoder.features(images, self.spec.final_norm)
        if self.spec.task == "classify":
            return (features.embedding,)
        return tuple(features.layers[layer] for layer in self.spec.layers) or (features.feature_map,)


AnyGraph = ExportGraph | TaskGraph


def build_graph(
    model: Encoder | TaskModel, options: ExportOptions, attention: Attention = "fused", split_qkv: bool = False
) -> AnyGraph:
    """Build the module that is exported for an encoder or a task model."""
    kind = TaskGraph if isinstance(model, TaskModel) else ExportGraph
    return kind(model, options, attention, split_qkv)  # type: ignore[arg-type]


def options_for(model: Encoder | TaskModel, options: ExportOptions) -> ExportOptions:
    """Return export options with sizes in patches, and with the output of a task model.

    Raises:
        ValueError: A size is no multiple of the patch size, or an option is not for this kind of model.
    """
    encoder = encoder_of(model)
    options = replace(options.in_patches(encoder.architecture.patch), channels=encoder.architecture.channels)
    check_input(options.input, encoder.preprocessing)
    _check_keep_float(options)
    if not isinstance(model, TaskModel):
        _refuse({"--output": options.output != "features", "--keep-float head": HEAD in options.keep_float})
        return options
    if options.layers or options.class_token:
        option = "--layers" if options.layers else "--class-token"
        raise ValueError(f"a fine-tuned model gives {model.spec.task} results, no features; omit {option}")
    if options.output == MASK and model.spec.task != "segment":
        raise ValueError(f"--output mask is for segmentation, and the model is trained to {model.spec.task}; omit it")
    if model.spec.detector:
        if options.output not in ("features", "boxes", "instances"):
            raise ValueError(
                f"--output {options.output} is for other tasks, and the model is trained to detect; omit it"
            )
        return replace(options, output="instances" if model.spec.detector.masks else "boxes")
    return replace(options, output="logits" if options.output == "features" else options.output)


def _check_keep_float(options: ExportOptions) -> None:
    names = ",".join(options.keep_float)
    if names and options.precision in ("fp32", "tf32"):
        raise ValueError(f"every layer is float32 in {options.precision}; omit --keep-float {names}")
    if set(options.keep_float) - {HEAD} and options.precision not in QUANTIZED:
        raise ValueError(f"in {options.precision} only the head can stay float32; use --keep-float head, got {names}")


def _refuse(given: dict[str, bool]) -> None:
    for option, wrong in given.items():
        if wrong:
            raise ValueError(f"{option} is for a fine-tuned model, and this is an encoder; omit it")


def float_head_note(model: Encoder | TaskModel, options: ExportOptions) -> dict[str, str]:
    """Return an entry of the manifest's `target` that says that the head is float32 in a lower precision."""
    kept = HEAD in options.keep_float and options.precision in ("fp16", *QUANTIZED)
    return {HEAD: "float32"} if isinstance(model, TaskModel) and (kept or options.precision == "bf16") else {}
