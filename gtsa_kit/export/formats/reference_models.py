"""Reference models that run a checkpoint of another framework from disk, by that framework's own key names.

timm reads its own files, and transformers reads its own where it is installed. The forward passes of the other
frameworks are plain functions here. They share no code with the encoder, and no table of key names with the code that
wrote the files.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import import open_weights

Weights = dict[str, Tensor]
Network = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function from images (B, N, H, W) to the embedding (B, D), by the call that is documented for the framework, and to
the map of patch tokens (B, D, H/p, W/p) for patches of p pixels."""


def load_timm(folder: Path, _: Architecture) -> tuple[str, Network]:
    """Load a folder with timm."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return (
        f"timm {timm.__version__}",
        lambda images: (model(images), _tokens_to_map(model, images)),
    )


def _tokens_to_map(model: Any, images: Tensor) -> Tensor:
    """Return the map (B, D, h, w) of the patch tokens of a timm ViT after its final norm, if it has one."""
    rows, columns = model.patch_embed.grid_size
    tokens: Tensor = model.fc_norm(model.forward_features(images))
    return tokens[:, model.num_prefix_tokens :].transpose(1, 2).reshape(len(tokens), -1, rows, columns)


def load_hf(folder: Path, architecture: Architecture) -> tuple[str, Network]:
    """Load a folder with transformers where it is installed, else with gtsa-kit's checkpoint import."""
    if importlib.util.find_spec("transformers") is None:
        if architecture.channels != 3:
            raise ValueError(
                "files of hf with other channels than RGB are checked by transformers; pip install transformers"
            )
        encoder = open_weights(folder, embedding=architecture.embedding).encoder
        return (
            "gtsa-kit's checkpoint import, since transformers is not installed",
            lambda images: encoder(images)[:2],
        )
    transformers = importlib.import_module("transformers")
    had_progress_bar = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()
    if had_progress_bar:
        transformers.logging.enable_progress_bar()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = model(images).last_hidden_state
        patches = tokens[:, 1:]
        return tokens[:, 0] if architecture.embedding == "cls" else patches.mean(1), _to_grid(patches)

    return f"transformers {transformers.__version__}", run


def load_mmseg(folder: Path, architecture: Architecture) -> tuple[str, Network]:
    """Load a folder to be run with `run_mmseg`."""
    weights = _load(folder / "encoder_mmseg.pth", "state_dict")
    run = partial(run_mmseg, weights, heads=architecture.heads, eps=architecture.norm_eps)
    return "torch functions on mmsegmentation's key names", _with_mean(run)


def load_mmdet(folder: Path, architecture: Architecture) -> tuple[str, Network]:
    """Load a folder to be run with `run_mmpretrain`."""
    weights = _load(folder / "encoder_mmdet.pth", "state_dict")
    run = partial(run_mmpretrain, weights, heads=architecture.heads, eps=architecture.norm_eps)
    return "torch functions on mmpretrain's key names", _with_mean(run)


def load_detectron2(folder: Path, architecture: Architecture) -> tuple[str, Network]:
    """Load a folder to be run with `run_detectron2`."""
    weights = _load(folder / "encoder_detectron2.pth", "model")
    net = {name.removeprefix("backbone.net."): tensor for name, tensor in weights.items()}
    run = partial(run_detectron2, net, heads=architecture.heads, eps=architecture.norm_eps)
    return "torch functions on detectron2's key names", _with_mean(run)


def _with_mean(run: Callable[[Tensor], Tensor]) -> Network:
    """Return a network whose embedding is the mean of its map; these frameworks have maps alone."""

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        feature_map = run(images)
        return feature_map.mean((2, 3)), feature_map

    return network


LOADERS: Final[Mapping[str, Callable[[Path, Architecture], tuple[str, Network]]]] = {
    "timm": load_timm,
    "hf": load_hf,
    "mmseg": load_mmseg,
    "mmdet": load_mmdet,
    "detectron2": load_detectron2,
}
"""Functions that load a folder and return the name of the runtime, for display, and the network; by framework."""


def run_mmseg(w: Weights, images: Tensor, heads: int, eps: float) -> Tensor:
    """Run the VisionTransformer of mmsegmentation with final_norm; its attention is `torch.nn.MultiheadAttention`.

    Args:
        w: Weights by mmsegmentation's keys.
        images: Normalized (B, N, H, W), of the size that the position embeddings are for.
        heads: Number of attention heads.
        eps: Epsilon of LayerNorm.

    Returns:
        Feature map (B, D, H/p, W/p) for patches of p pixels.
    """
    x = _openmmlab_tokens(w, images).transpose(0, 1)  # (N, B, D), the layout of multi_head_attention_forward
    for i in range(_depth(w, "layers")):
        prefix = f"layers.{i}"
        y = _norm(w, f"{prefix}.ln1", x, eps)
        attended, _ = F.multi_head_attention_forward(
            query=y,
            key=y,
            value=y,
            embed_dim_to_check=y.shape[-1],
            num_heads=heads,
            in_proj_weight=w[f"{prefix}.attn.attn.in_proj_weight"],
            in_proj_bias=w[f"{prefix}.attn.attn.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=w[f"{prefix}.attn.attn.out_proj.weight"],
            out_proj_bias=w[f"{prefix}.attn.attn.out_proj.bias"],
            training=False,
            need_weights=False,
        )
        x = x + attended
        x = x + _openmmlab_ffn(w, prefix, x, eps)
    return _to_grid(_norm(w, "ln1", x, eps).transpose(0, 1)[:, 1:])


def run_mmpretrain(w: Weights, images: Tensor, heads: int, eps: float) -> Tensor:
    """Run the VisionTransformer of mmpretrain with out_type="featmap" and final_norm; see `run_mmseg`."""
    x = _openmmlab_tokens(w, images)
    for i in range(_depth(w, "layers")):
        prefix = f"layers.{i}"
        q, k, v = _heads(_linear(w, f"{prefix}.attn.qkv", _norm(w, f"{prefix}.ln1", x, eps)), heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + _linear(w, f"{prefix}.attn.proj", attended)
        x = x + _openmmlab_ffn(w, prefix, x, eps)
    return _to_grid(_norm(w, "ln1", x, eps)[:, 1:])


def run_detectron2(w: Weights, images: Tensor, heads: int, eps: float) -> Tensor:
    """Run the ViT of detectron2, without class token and final norm, with global attention; see `run_mmseg`."""
    x = _project_patches(w, "patch_embed.proj", images)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, 1:]
    for i in range(_depth(w, "blocks")):
        prefix = f"blocks.{i}"
        q, k, v = _heads(_linear(w, f"{prefix}.attn.qkv", _norm(w, f"{prefix}.norm1", x, eps)), heads)
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + _linear(w, f"{prefix}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(_linear(w, f"{prefix}.mlp.fc1", _norm(w, f"{prefix}.norm2", x, eps)))
        x = x + _linear(w, f"{prefix}.mlp.fc2", hidden)
    return _to_grid(x)


def _openmmlab_tokens(w: Weights, images: Tensor) -> Tensor:
    """Embed images (B, N, H, W) of the position embeddings' size as tokens (B, 1 + h*w, D)."""
    x = _project_patches(w, "patch_embed.projection", images)
    tokens = [w["cls_token"].expand(len(images), -1, -1), x.flatten(2).transpose(1, 2)]
    return torch.cat(tokens, dim=1) + w["pos_embed"]


def _openmmlab_ffn(w: Weights, prefix: str, x: Tensor, eps: float) -> Tensor:
    hidden = F.gelu(_linear(w, f"{prefix}.ffn.layers.0.0", _norm(w, f"{prefix}.ln2", x, eps)))
    return _linear(w, f"{prefix}.ffn.layers.1", hidden)


def _project_patches(w: Weights, name: str, images: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(images, weight, w[f"{name}.bias"], stride=weight.shape[-2:])


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Split (B, N, 3 * D) into queries, keys and values, each (B, heads, N, D / heads)."""
    return qkv.reshape(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _depth(w: Weights, blocks: str) -> int:
    return len({name.split(".")[1] for name in w if name.startswith(f"{blocks}.")})


def _to_grid(tokens: Tensor) -> Tensor:
    """Reshape tokens (B, s*s, D) of a square image to (B, D, s, s)."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _load(file: Path, entry: str) -> Weights:
    weights: Weights = torch.load(file, map_location="cpu", weights_only=True)[entry]
    return weights
