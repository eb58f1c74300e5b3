"""Layers of the graph that is exported, built from those of a timm ViT."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.positions import resample_positions, split_positions
from gtsa_kit.models.rotary import RotaryTable, rotate

Attention = Literal["fused", "explicit"]


class PatchProjection(nn.Module):
    """Patch embedding: (B, N, H, W) to (B, h*w, D) float32.

    In half precision it is a matrix product: ONNX has no bf16 convolution before opset 22.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.half_precision = dtype != torch.float32
        self.patch = conv.kernel_size[0]
        self.proj: nn.Module = conv
        if self.half_precision:
            linear = nn.Linear(conv.weight[0].numel(), conv.out_channels)
            bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.data
            linear.weight.data, linear.bias.data = conv.weight.data.flatten(1), bias
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
    """Learned positions of the prefix tokens, if they have any, and of the patches; a constant if the size is fixed."""

    def __init__(self, encoder: Encoder, options: ExportOptions) -> None:
        super().__init__()
        prefix, patches = split_positions(encoder.vit)
        assert patches is not None
        self.grid, self.method = encoder.grid, encoder.architecture.resampling
        self.fixed = options.height.fixed
        if self.fixed:
            patch = encoder.architecture.patch
            patches = self._resample(patches, options.height.min // patch, options.width.min // patch)
        self.prefix = None if prefix is None else nn.Parameter(prefix.clone())
        self.patches = nn.Parameter(patches.clone())

    def forward(self, h: int, w: int) -> Tensor:
        """Return (P + h*w, D) for a grid of h x w patches, P = 0 for prefix tokens without positions."""
        patches = self.patches if self.fixed else self._resample(self.patches, h, w)
        return patches if self.prefix is None else torch.cat([self.prefix, patches])

    def _resample(self, patches: Tensor, h: int, w: int) -> Tensor:
        return resample_positions(patches, self.grid, h, w, self.method)


class Rotary(nn.Module):
    """Sines and cosines of rotary positions for every token; a constant if the size is fixed."""

    def __init__(self, table: RotaryTable, prefix: int, options: ExportOptions, patch: int) -> None:
        super().__init__()
        self.table, self.prefix, self.by_halves = table, prefix, table.by_halves
        self.constant: tuple[Tensor, Tensor, bool] | None = None
        if options.height.fixed:
            self.constant = self(options.height.min // patch, options.width.min // patch)

    def forward(self, h: int, w: int) -> tuple[Tensor, Tensor, bool]:
        """Return sines and cosines, (P + h*w, head_dim) each, and whether channels are rotated by halves.

        Prefix tokens are not rotated: their sine is 0.
        """
        if self.constant is not None:
            return self.constant
        sines, cosines = self.table(h, w).chunk(2, dim=-1)
        still = torch.zeros(self.prefix, sines.shape[-1])
        return torch.cat([still, sines]), torch.cat([still + 1, cosines]), self.by_halves


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
        self.q_norm: nn.Module = block.attn.q_norm
        self.k_norm: nn.Module = block.attn.k_norm
        self.attention_norm: nn.Module = block.attn.norm
        fused = join_qkv(block.attn)
        qkv = split_linear(fused, 3) if split_qkv else [fused]
        self.qkv = nn.ModuleList(CastLinear(linear, dtype) for linear in qkv)
        self.proj = CastLinear(block.attn.proj, dtype)
        self.mlp = ExportMlp(block.mlp, dtype)
        self.scale1, self.scale2 = layer_scales(block)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor, bool] | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D); `table` is that of `Rotary`."""
        mixed = self.proj(_normed(self.attention_norm, self._attend(self.norm1(x), table)))
        x = x + (mixed if self.scale1 is None else self.scale1 * mixed)
        hidden = self.mlp(self.norm2(x))
        return x + (hidden if self.scale2 is None else self.scale2 * hidden)  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, table: tuple[Tensor, Tensor, bool] | None) -> Tensor:
        b, n, d = x.shape
        if len(self.qkv) == 3:
            q, k, v = (project(x).reshape(b, n, self.heads, d // self.heads).transpose(1, 2) for project in self.qkv)
        else:
            q, k, v = self.qkv[0](x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = _normed(self.q_norm, q), _normed(self.k_norm, k)
        if table is not None:
            q, k = (_cast(rotate(_cast(one, torch.float32), *table), self.dtype) for one in (q, k))
        q, k = _cast(q, self.dtype), _cast(k, self.dtype)
        if self.explicit:
            scores = (q * (d // self.heads) ** -0.5) @ k.transpose(-2, -1)  # (B, heads, N, N)
            mixed = _cast(_cast(scores, torch.float32).softmax(dim=-1), self.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(b, n, d)  # type: ignore[no-any-return]


class ExportMlp(nn.Module):
    """MLP of a block: timm's Mlp, or one of its gated variants, GluMlp and SwiGLU."""

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.act: nn.Module = mlp.act
        self.norm: nn.Module = mlp.norm
        self.gate: nn.Module | None = None
        if hasattr(mlp, "fc1_g"):  # SwiGLU; its class is not imported, because that takes seconds
            activated, gate = mlp.fc1_g, mlp.fc1_x
        elif hasattr(mlp, "gate_last"):  # GluMlp
            halves = split_linear(mlp.fc1, 2)
            activated, gate = halves[::-1] if mlp.gate_last else halves
        else:
            activated, gate = mlp.fc1, None
        self.fc1, self.fc2 = CastLinear(activated, dtype), CastLinear(mlp.fc2, dtype)
        if gate is not None:
            self.gate = CastLinear(gate, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        hidden = self.act(self.fc1(x))
        if self.gate is not None:
            hidden = hidden * self.gate(x)
        return self.fc2(_normed(self.norm, hidden))  # type: ignore[no-any-return]


def layer_scales(block: Any) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Return the LayerScale of attention and MLP of a timm block, (D,) each, or None where it has none."""
    if hasattr(block, "gamma_1"):
        return block.gamma_1, block.gamma_2
    return getattr(block.ls1, "gamma", None), getattr(block.ls2, "gamma", None)


def join_qkv(attention: Any) -> nn.Linear:
    """Return one linear layer for queries, keys and values of timm's Attention or EvaAttention."""
    if attention.qkv is not None and getattr(attention, "q_bias", None) is None:
        return _with_bias(attention.qkv)
    if attention.qkv is not None:
        weight, biases = attention.qkv.weight, [attention.q_bias, attention.k_bias, attention.v_bias]
    else:
        parts = [_with_bias(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        weight, biases = torch.cat([part.weight for part in parts]), [part.bias for part in parts]
    joined = nn.Linear(weight.shape[1], weight.shape[0])
    joined.weight.data, joined.bias.data = weight.data, torch.cat(biases).data
    return joined


def _with_bias(linear: nn.Linear) -> nn.Linear:
    """Return the layer, or one that also has a bias, of 0."""
    if linear.bias is not None:
        return linear
    result = nn.Linear(linear.in_features, linear.out_features)
    result.weight.data, result.bias.data = linear.weight.data, torch.zeros(linear.out_features)
    return result


def split_linear(linear: nn.Linear, parts: int) -> list[nn.Linear]:
    """Split a linear layer into several that each compute an equal part of its output."""
    result = []
    for weight, bias in zip(linear.weight.chunk(parts), linear.bias.chunk(parts), strict=True):
        part = nn.Linear(linear.in_features, len(weight))
        part.weight.data, part.bias.data = weight.data.clone(), bias.data.clone()
        result.append(part)
    return result


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm in float32, or nothing where a block has none."""
    return x if isinstance(norm, nn.Identity) else norm(_cast(x, torch.float32))


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast without adding a node to the graph if the dtype is right already."""
    return x if x.dtype == dtype else x.to(dtype)
