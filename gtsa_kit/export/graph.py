"""Module that is exported: it copies the encoder's weights, takes a tensor and returns a tuple of tensors."""

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.export.layout import AXES, arrange
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.positions import resample_positions

CLASS_POSITION, PATCH_POSITIONS = "pos_embed.class", "pos_embed.patches"
"""Keys of the two parts of the position embeddings."""
Attention = Literal["fused", "explicit"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Dtypes of matrix products by precision; other precisions export a float32 graph (int8 and fp8 quantize it later)."""


class ExportGraph(nn.Module):
    """Encoder that maps images to (embedding, feature_map, one map for each requested layer), all float32.

    In fp16 and bf16 the weights and inputs of matrix products are cast; the residual stream, LayerNorm, softmax,
    the pooled mean, input and output stay float32. Casts are nodes of the graph, so strongly typed runtimes
    (TensorRT 11) compute in the types that the parity gate checked.
    """

    def __init__(
        self, encoder: Encoder, options: ExportOptions, attention: Attention = "fused", split_qkv: bool = False
    ) -> None:
        """Copy the encoder's weights.

        Args:
            encoder: Encoder in float32; it is not modified.
            options: Precision, fixed size, layers and input type of the graph.
            attention: "fused" exports one attention operator, whose kernel computes softmax in float32; "explicit"
                exports products and softmax, with the scale before the product, which ONNX Runtime runs faster than
                the exporter's own decomposition.
            split_qkv: Export three projections in place of one that is split; OpenVINO then fuses attention.

        Raises:
            ValueError: A layer does not exist.
        """
        super().__init__()
        if any(not 0 <= layer < encoder.architecture.depth for layer in options.layers):
            raise ValueError(f"layers must lie between 0 and {encoder.architecture.depth - 1}, got {options.layers}")
        options = options.in_patches(encoder.architecture.patch)
        vit = copy.deepcopy(encoder).float().cpu().vit
        self.patch = encoder.architecture.patch
        self.dtype = DTYPES.get(options.precision, torch.float32)
        self.layers, self.uint8_input = options.layers, options.input == "uint8"
        self.patches = PatchProjection(vit.patch_embed.proj, self.dtype)
        self.positions = Positions(vit.pos_embed, options, self.patch)
        self.cls_token, self.norm = vit.cls_token, vit.norm
        self.blocks = nn.ModuleList(ExportBlock(block, self.dtype, attention, split_qkv) for block in vit.blocks)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(encoder.preprocessing.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(encoder.preprocessing.std)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute features of images: normalized (B, 3, H, W) float32, or RGB (B, H, W, 3) uint8."""
        if self.uint8_input:
            # The cast precedes the permutation: TensorRT does not permute uint8.
            images = (images.float().permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        h, w = images.shape[2] // self.patch, images.shape[3] // self.patch
        class_token = self.cls_token.expand(images.shape[0], -1, -1)
        x = torch.cat([class_token, self.patches(images)], dim=1) + self.positions(h, w)  # (B, 1 + h*w, D)
        maps = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.layers:
                maps[index] = tokens_to_map(self.norm(x)[:, 1:], h, w)
        x = self.norm(x)[:, 1:]
        return x.mean(dim=1), tokens_to_map(x, h, w), *(maps[layer] for layer in self.layers)


class PatchProjection(nn.Module):
    """Patch embedding: (B, 3, H, W) to (B, h*w, D) float32.

    In half precision it is a matrix product: ONNX has no bf16 convolution before opset 22.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.half_precision = dtype != torch.float32
        self.patch = conv.kernel_size[0]
        self.proj: nn.Module = conv
        if self.half_precision:
            linear = nn.Linear(conv.weight[0].numel(), conv.out_channels)
            linear.weight.data, linear.bias.data = conv.weight.data.flatten(1), conv.bias.data  # type: ignore[union-attr]
            self.proj = CastLinear(linear, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images whose height and width are multiples of the patch size."""
        if not self.half_precision:
            return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
        b, c, height, width = images.shape
        p, h, w = self.patch, height // self.patch, width // self.patch
        patches = images.reshape(b, c, h, p, w, p).permute(0, 2, 4, 1, 3, 5)
        rows = patches.reshape(b, h * w, c * p * p)
        return self.proj(rows).float()  # type: ignore[no-any-return]


class Positions(nn.Module):
    """Position embeddings of the class token and the patches; a constant if the size is fixed."""

    def __init__(self, pos_embed: Tensor, options: ExportOptions, patch: int) -> None:
        super().__init__()
        class_position, patches = pos_embed[0, :1].clone(), pos_embed[0, 1:].clone()
        self.fixed = options.height.fixed
        if self.fixed:
            patches = resample_positions(patches, options.height.min // patch, options.width.min // patch)
        self.class_position, self.patches = nn.Parameter(class_position), nn.Parameter(patches)

    def forward(self, h: int, w: int) -> Tensor:
        """Return (1 + h*w, D) for a grid of h x w patches."""
        patches = self.patches if self.fixed else resample_positions(self.patches, h, w)
        return torch.cat([self.class_position, patches])


class CastLinear(nn.Module):
    """Linear layer whose weights, input and output have another dtype."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.linear = linear.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.linear(_cast(x, self.dtype))  # type: ignore[no-any-return]


class ExportBlock(nn.Module):
    """One block of the ViT on a float32 residual stream (B, N, D)."""

    def __init__(self, block: Any, dtype: torch.dtype, attention: Attention, split_qkv: bool) -> None:
        super().__init__()
        self.dtype, self.explicit = dtype, attention == "explicit"
        self.heads: int = block.attn.num_heads
        self.norm1: nn.Module = block.norm1
        self.norm2: nn.Module = block.norm2
        self.act: nn.Module = block.mlp.act
        qkv = split_linear(block.attn.qkv, 3) if split_qkv else [block.attn.qkv]
        self.qkv = nn.ModuleList(CastLinear(linear, dtype) for linear in qkv)
        self.proj = CastLinear(block.attn.proj, dtype)
        self.fc1, self.fc2 = CastLinear(block.mlp.fc1, dtype), CastLinear(block.mlp.fc2, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        x = x + self.proj(self._attend(self.norm1(x)))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        if len(self.qkv) == 3:
            q, k, v = (project(x).reshape(b, n, self.heads, d // self.heads).transpose(1, 2) for project in self.qkv)
        else:
            q, k, v = self.qkv[0](x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if self.explicit:
            scores = (q * (d // self.heads) ** -0.5) @ k.transpose(-2, -1)  # (B, heads, N, N)
            mixed = _cast(_cast(scores, torch.float32).softmax(dim=-1), self.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(b, n, d)  # type: ignore[no-any-return]


def split_linear(linear: nn.Linear, parts: int) -> list[nn.Linear]:
    """Split a linear layer into several that each compute an equal part of its output."""
    result = []
    for weight, bias in zip(linear.weight.chunk(parts), linear.bias.chunk(parts), strict=True):
        part = nn.Linear(linear.in_features, len(weight))
        part.weight.data, part.bias.data = weight.data.clone(), bias.data.clone()
        result.append(part)
    return result


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Reshape (B, h*w, D) to (B, D, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def example_input(options: ExportOptions) -> Tensor:
    """Return an input to trace with, for options `in_patches`.

    Its dynamic sizes differ, so that torch.export does not treat two as one.
    """
    batch = options.batch.clamp(2)
    height, width = options.height.clamp(96), options.width.clamp(64)
    return torch.zeros(arrange(options.layout, batch, height, width), dtype=getattr(torch, options.input))


def dynamic_shapes(options: ExportOptions) -> tuple[dict[int, Any]]:
    """Return the dynamic axes of the input for torch.export, for options `in_patches`."""
    axes: dict[int, Any] = {}
    order = AXES[options.layout]
    if not options.batch.fixed:
        axes[0] = torch.export.Dim("batch", min=options.batch.min, max=options.batch.max)
    for axis, name, size in (("height", "rows", options.height), ("width", "columns", options.width)):
        if not size.fixed:
            last = None if size.max is None else size.max // size.step
            axes[order.index(axis)] = size.step * torch.export.Dim(name, min=size.min // size.step, max=last)
    return (axes,)


def split_position_embeddings(encoder: Encoder) -> dict[str, Tensor]:
    """Return the encoder's weights by timm's keys, the position embeddings in two parts as in a dynamic graph."""
    weights = dict(encoder.vit.state_dict())
    positions = weights.pop("pos_embed")
    return {**weights, CLASS_POSITION: positions[0, :1], PATCH_POSITIONS: positions[0, 1:]}


def join_position_embeddings(split: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the two parts of the position embeddings; the inverse of `split_position_embeddings`."""
    weights = dict(split)
    class_position, patches = weights.pop(CLASS_POSITION), weights.pop(PATCH_POSITIONS)
    return {**weights, "pos_embed": torch.cat([class_position, patches])[None]}


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast without adding a node to the graph if the dtype is right already."""
    return x if x.dtype == dtype else x.to(dtype)
