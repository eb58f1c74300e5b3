"""Runs a checkpoint that was written for another framework, from the disk and under that framework's own key names.

timm is always here and reads its own; so does transformers where it is installed. For the others their forward stands
here in plain functions, which share nothing with the encoder or with the tables that the files were written from.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from gtsa_kit.config import PATCH
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Architecture

Weights = dict[str, Tensor]
Network = Callable[[Tensor], Tensor]
"""(B, 3, H, W) to the map of patch tokens (B, D, H/16, W/16)."""


def read_timm(folder: Path, _: Architecture) -> tuple[str, Network]:
    """By timm itself."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    return f"timm {timm.__version__}", lambda images: _grid(model.forward_features(images)[:, 1:], images)


def read_hf(folder: Path, _: Architecture) -> tuple[str, Network]:
    """By transformers where it is installed, else by our own reader of foreign checkpoints."""
    if importlib.util.find_spec("transformers") is None:
        encoder = open_weights(folder).encoder
        return "gtsa-kit's own reader, since transformers is not installed", lambda images: encoder(images).feature_map
    transformers = importlib.import_module("transformers")
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()
    if shown:
        transformers.logging.enable_progress_bar()
    return (
        f"transformers {transformers.__version__}",
        lambda images: _grid(model(images).last_hidden_state[:, 1:], images),
    )


def read_mmseg(folder: Path, about: Architecture) -> tuple[str, Network]:
    """By `run_mmseg`."""
    weights = _load(folder / "encoder_mmseg.pth", "state_dict")
    run = partial(run_mmseg, weights, heads=about.heads, eps=about.norm_eps)
    return "torch functions on mmsegmentation's key names", run


def read_mmdet(folder: Path, about: Architecture) -> tuple[str, Network]:
    """By `run_mmpretrain`."""
    weights = _load(folder / "encoder_mmdet.pth", "state_dict")
    run = partial(run_mmpretrain, weights, heads=about.heads, eps=about.norm_eps)
    return "torch functions on mmpretrain's key names", run


def read_detectron2(folder: Path, about: Architecture) -> tuple[str, Network]:
    """By `run_detectron2`."""
    weights = _load(folder / "encoder_detectron2.pth", "model")
    net = {name.removeprefix("backbone.net."): tensor for name, tensor in weights.items()}
    return "torch functions on detectron2's key names", partial(
        run_detectron2, net, heads=about.heads, eps=about.norm_eps
    )


READERS: Final[Mapping[str, Callable[[Path, Architecture], tuple[str, Network]]]] = {
    "timm": read_timm,
    "hf": read_hf,
    "mmseg": read_mmseg,
    "mmdet": read_mmdet,
    "detectron2": read_detectron2,
}
"""What runs a folder, for people, and the network itself."""


def run_mmseg(w: Weights, images: Tensor, heads: int, eps: float) -> Tensor:
    """The VisionTransformer of mmsegmentation with final_norm: its attention is `torch.nn.MultiheadAttention`."""
    x = _openmmlab_tokens(w, images).transpose(0, 1)  # (N, B, D), as that module wants it
    for i in range(_depth(w, "layers")):
        at = f"layers.{i}"
        y = _norm(w, f"{at}.ln1", x, eps)
        attended, _ = F.multi_head_attention_forward(
            query=y,
            key=y,
            value=y,
            embed_dim_to_check=y.shape[-1],
            num_heads=heads,
            in_proj_weight=w[f"{at}.attn.attn.in_proj_weight"],
            in_proj_bias=w[f"{at}.attn.attn.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=w[f"{at}.attn.attn.out_proj.weight"],
            out_proj_bias=w[f"{at}.attn.attn.out_proj.bias"],
            training=False,
            need_weights=False,
        )
        x = x + attended
        x = x + _openmmlab_ffn(w, at, x, eps)
    return _grid(_norm(w, "ln1", x, eps).transpose(0, 1)[:, 1:], images)


def run_mmpretrain(w: Weights, images: Tensor, heads: int, eps: float) -> Tensor:
    """The VisionTransformer of mmpretrain with out_type="featmap" and final_norm."""
    x = _openmmlab_tokens(w, images)
    for i in range(_depth(w, "layers")):
        at = f"layers.{i}"
        q, k, v = _heads(_linear(w, f"{at}.attn.qkv", _norm(w, f"{at}.ln1", x, eps)), heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + _linear(w, f"{at}.attn.proj", attended)
        x = x + _openmmlab_ffn(w, at, x, eps)
    return _grid(_norm(w, "ln1", x, eps)[:, 1:], images)


def run_detectron2(w: Weights, images: Tensor, heads: int, eps: float) -> Tensor:
    """The ViT of detectron2 with global attention: no class token among the tokens, no final norm."""
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, 1:]
    for i in range(_depth(w, "blocks")):
        at = f"blocks.{i}"
        q, k, v = _heads(_linear(w, f"{at}.attn.qkv", _norm(w, f"{at}.norm1", x, eps)), heads)
        weighed = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + _linear(w, f"{at}.attn.proj", (weighed @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(_linear(w, f"{at}.mlp.fc1", _norm(w, f"{at}.norm2", x, eps)))
        x = x + _linear(w, f"{at}.mlp.fc2", hidden)
    return _grid(x, images)


def _openmmlab_tokens(w: Weights, images: Tensor) -> Tensor:
    """(B, 3, H, W) at the size of the positions to (B, 1 + h*w, D)."""
    x = F.conv2d(images, w["patch_embed.projection.weight"], w["patch_embed.projection.bias"], stride=PATCH)
    tokens = [w["cls_token"].expand(len(images), -1, -1), x.flatten(2).transpose(1, 2)]
    return torch.cat(tokens, dim=1) + w["pos_embed"]


def _openmmlab_ffn(w: Weights, at: str, x: Tensor, eps: float) -> Tensor:
    hidden = F.gelu(_linear(w, f"{at}.ffn.layers.0.0", _norm(w, f"{at}.ln2", x, eps)))
    return _linear(w, f"{at}.ffn.layers.1", hidden)


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(B, N, 3 * D) to three of (B, heads, N, D / heads)."""
    return qkv.reshape(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _depth(w: Weights, blocks: str) -> int:
    return len({name.split(".")[1] for name in w if name.startswith(f"{blocks}.")})


def _grid(tokens: Tensor, images: Tensor) -> Tensor:
    """(B, h*w, D) to (B, D, h, w)."""
    return tokens.transpose(1, 2).reshape(len(images), -1, images.shape[2] // PATCH, images.shape[3] // PATCH)


def _load(file: Path, entry: str) -> Weights:
    weights: Weights = torch.load(file, map_location="cpu", weights_only=True)[entry]
    return weights
