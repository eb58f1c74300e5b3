"""Module that is exported: it copies the encoder's weights, takes a tensor and returns a tuple of tensors."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gtsa_kit.export.graph_layers import Attention, ExportBlock, PatchProjection, Positions, Rotary
from gtsa_kit.export.layout import AXES, arrange
from gtsa_kit.export.sample_normalization import SampleNormalization
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.architecture import check_class_token, check_layers
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.positions import split_positions
from gtsa_kit.models.tokens import pool_tokens, tokens_to_map

PREFIX_POSITIONS, PATCH_POSITIONS = "pos_embed.prefix", "pos_embed.patches"
"""Keys of the two parts of the position embeddings."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Dtypes of matrix products by precision; other precisions export a float32 graph (int8 and fp8 quantize it later)."""


class ExportGraph(nn.Module):
    """Encoder that maps images to (embedding, feature_map, requested maps of layers and class token), all float32.

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
            ValueError: A layer or the class token does not exist.
        """
        super().__init__()
        check_layers(options.layers, encoder.architecture)
        if options.class_token:
            check_class_token(encoder.architecture)
        options = options.in_patches(encoder.architecture.patch)
        copied = copy.deepcopy(encoder).float().cpu()
        vit = copied.vit
        self.patch, self.embedding = encoder.architecture.patch, encoder.architecture.embedding
        self.dtype = DTYPES.get(options.precision, torch.float32)
        self.layers, self.class_token = options.layers, options.class_token
        self.samples = SampleNormalization(encoder.preprocessing) if options.takes_samples else None
        self.patches = PatchProjection(vit.patch_embed.proj, self.dtype)
        self.prefix = nn.ParameterList(token for token in (vit.cls_token, vit.reg_token) if token is not None)
        self.prefix_length = encoder.prefix
        self.positions = Positions(copied, options) if vit.pos_embed is not None else None
        self.rotary = Rotary(copied.rotary, encoder.prefix, options, self.patch) if copied.rotary is not None else None
        self.norm_pre, self.norm = vit.norm_pre, vit.norm
        self.blocks = nn.ModuleList(ExportBlock(block, self.dtype, attention, split_qkv) for block in vit.blocks)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute features of images: normalized (B, N, H, W) float32, or samples (B, H, W, N)."""
        features = self.features(images)
        class_token = [features.class_token] if self.class_token else []
        return features.embedding, features.feature_map, *(features.layers[i] for i in self.layers), *class_token

    def features(self, images: Tensor, final_norm: bool = True) -> Features:
        """Compute the features of `forward`, with or without the encoder's final norm."""
        if self.samples is not None:
            images = self.samples(images)
        h, w = images.shape[2] // self.patch, images.shape[3] // self.patch
        x = self.norm_pre(self._tokens(images, h, w))  # (B, P + h*w, D)
        table = None if self.rotary is None else self.rotary(h, w)
        maps = {}
        for index, block in enumerate(self.blocks):
            x = block(x, table)
            if index in self.layers:
                maps[index] = tokens_to_map((self.norm(x) if final_norm else x)[:, self.prefix_length :], h, w)
        tokens = self.norm(x) if final_norm else x
        feature_map = tokens_to_map(tokens[:, self.prefix_length :], h, w)
        class_token = tokens[:, 0] if self.class_token else None
        embedding = pool_tokens(self.embedding, x, tokens, self.prefix_length, self.norm)
        return Features(embedding, feature_map, maps, class_token)

    def _tokens(self, images: Tensor, h: int, w: int) -> Tensor:
        """Return the prefix tokens and the patches with their learned positions, (B, P + h*w, D)."""
        prefix = [token.expand(images.shape[0], -1, -1) for token in self.prefix]
        tokens: Tensor = self.patches(images)
        if self.positions is not None and self.positions.prefix is None:
            tokens = torch.add(tokens, self.positions(h, w))
        if prefix:
            tokens = torch.cat([*prefix, tokens], dim=1)
        if self.positions is not None and self.positions.prefix is not None:
            tokens = torch.add(tokens, self.positions(h, w))
        return tokens


def example_input(options: ExportOptions) -> Tensor:
    """Return an input to trace with, for options `in_patches`.

    Its dynamic sizes differ, so that torch.export does not treat two as one, and no map of a pyramid has a side of 1,
    which torch.export would fix.
    """
    batch = options.batch.clamp(2)
    height, width = options.height.clamp(160), options.width.clamp(96)
    return torch.zeros(
        arrange(options.layout, batch, height, width, options.channels), dtype=getattr(torch, options.dtype)
    )


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
    """Return the encoder's weights by timm's keys, the position embeddings in parts as in a dynamic graph."""
    weights = dict(encoder.vit.state_dict())
    weights.pop("pos_embed", None)
    parts = zip((PREFIX_POSITIONS, PATCH_POSITIONS), split_positions(encoder.vit), strict=True)
    return weights | {name: part.detach() for name, part in parts if part is not None}


def join_position_embeddings(split: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the parts of the position embeddings; the inverse of `split_position_embeddings`."""
    weights = dict(split)
    parts = [weights.pop(name) for name in (PREFIX_POSITIONS, PATCH_POSITIONS) if name in weights]
    return {**weights, "pos_embed": torch.cat(parts)[None]} if parts else weights
