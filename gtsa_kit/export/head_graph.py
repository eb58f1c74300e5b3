"""Head of a task model as it is exported: batch norms folded into convolutions, which may compute in half precision."""

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, HEAD, ExportOptions, layer_output
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.task_spec import TaskSpec

HEAD_DTYPES = {"fp16": torch.float16}
"""Dtypes of a head's convolutions by precision; float32 for others.

In bf16 the head stays float32: ONNX has no bf16 convolution before opset 22.
"""

FLOAT_LAYERS: Final[dict[str, tuple[str, ...]]] = {
    "DetectorHead": ("cls_logits", "bbox_pred", "cls_score", "mask_fcn_logits"),
    "EomtHead": ("mask_head", "upscale", "classifier"),
}
"""Layers, by class of the head, that stay float32 in every precision.

The last layers of detectors are small, and boxes depend on each digit. The logits of EoMT's masks are products of two
outputs, which multiply rounding errors.
"""


def head_inputs(spec: TaskSpec) -> tuple[str, ...]:
    """Return the names of an encoder's outputs that a head takes, each once."""
    if spec.task == "classify":
        return (EMBEDDING,)
    return tuple(layer_output(layer) for layer in dict.fromkeys(spec.layers)) or (FEATURE_MAP,)


class HeadGraph(nn.Module):
    """Head that maps an encoder's outputs, in the order of `head_inputs`, to float32 logits at their resolution."""

    def __init__(self, model: TaskModel, options: ExportOptions) -> None:
        """Copy the head's weights.

        Raises:
            ValueError: The head takes maps that no exported encoder gives.
        """
        super().__init__()
        if model.spec.detector:
            raise ValueError("the head of a detector is exported with its encoder alone; omit --part head")
        if not model.spec.final_norm:
            raise ValueError(
                "the head takes maps before the encoder's final norm, and exported encoders give them after it; export "
                "the whole model, or fine-tune with --freeze"
            )
        layers = list(dict.fromkeys(model.spec.layers))
        self.order = [layers.index(layer) for layer in model.spec.layers] or [0]
        self.head = export_head(model.head, options)

    def forward(self, *features: Tensor) -> Tensor:
        """Compute the logits."""
        return self.head(*(features[i] for i in self.order))  # type: ignore[no-any-return]


class CastLayer(nn.Module):
    """Convolution or linear layer with weights and input of another dtype, and float32 output."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.layer = dtype, layer.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        return self.layer(x.to(self.dtype)).float()  # type: ignore[no-any-return]


def export_head(head: nn.Module, options: ExportOptions) -> nn.Module:
    """Copy a head in evaluation mode and float32, and give its layers the dtype of the options."""
    copied = copy.deepcopy(head).float().cpu().eval()
    fold_batch_norms(copied)
    dtype = head_dtype(options)
    if dtype != torch.float32:
        _cast_layers(copied, dtype, FLOAT_LAYERS.get(type(head).__name__, ()))
    return copied.requires_grad_(False)


def head_dtype(options: ExportOptions) -> torch.dtype:
    """Return the dtype of a head's convolutions."""
    return torch.float32 if HEAD in options.keep_float else HEAD_DTYPES.get(options.precision, torch.float32)


def fold_batch_norms(module: nn.Module) -> None:
    """Replace each convolution and the batch norm behind it by one convolution, computed in float64."""
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for i in range(len(sequence) - 1):
            conv, norm = sequence[i], sequence[i + 1]
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(conv, nn.ConvTranspose2d)
                fused = fuse_conv_bn_eval(conv.double(), norm.double(), transpose=transposed)
                sequence[i], sequence[i + 1] = fused.float(), nn.Identity()


def _cast_layers(module: nn.Module, dtype: torch.dtype, kept: tuple[str, ...]) -> None:
    for name, child in module.named_children():
        if name in kept:
            continue
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            setattr(module, name, CastLayer(child, dtype))
        else:
            _cast_layers(child, dtype, kept)
