"""Metadata in the config.json of timm."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from gtsa_kit.config import PATCH
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import.embeddings import timm_pooling
from gtsa_kit.models.checkpoint_import.processors import Color
from gtsa_kit.models.checkpoint_import.sidecar_fields import POOLING_ARGUMENTS, TIMM, TIMM_ARGS, TIMM_PRETRAINED
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, Lenient, parse, read_json
from gtsa_kit.models.preprocessing import INTERPOLATIONS

_INTERPOLATIONS: Final[Mapping[str, str]] = {name.split(",")[0]: name for name in INTERPOLATIONS}


class _TimmArgs(Lenient):
    qkv_bias: bool = True


class _TimmPretrained(Lenient):
    mean: Color | None = None
    std: Color | None = None
    interpolation: str | None = None


class _TimmConfig(_TimmPretrained):
    architecture: str = ""
    model_args: _TimmArgs = _TimmArgs()
    pretrained_cfg: _TimmPretrained | None = None


def read_timm(path: Path) -> CheckpointMetadata:
    """Read the config.json of timm.

    Raises:
        ValueError: It is invalid, or describes a network or a preprocessing that gtsa-kit does not compute.
    """
    content, config = read_json(path), parse(_TimmConfig, path)
    TIMM.check(content, path)
    TIMM_PRETRAINED.check(content.get("pretrained_cfg") or {}, path, "pretrained_cfg")
    arguments = content.get("model_args") or {}
    TIMM_ARGS.check(arguments, path, "model_args")
    preprocessing = config.pretrained_cfg or config
    interpolation = preprocessing.interpolation
    if interpolation is not None and interpolation not in _INTERPOLATIONS:
        raise ValueError(
            f"{path} says interpolation is {interpolation!r}; gtsa-kit resizes by {_listed(_INTERPOLATIONS)}"
        )
    ratio = () if "swiglu_align_to" in arguments else ("mlp_ratio",)
    stated = (content.get("pretrained_cfg") or {}).get("global_pool") or content.get("global_pool")
    return CheckpointMetadata(
        **_timm_model(config.architecture, {"global_pool": stated, **arguments}, path),
        qkv_bias=config.model_args.qkv_bias,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=_INTERPOLATIONS.get(interpolation or ""),
        sizes=dict(_sizes(arguments, "embed_dim", "depth", "patch_size", "img_size", "in_chans", *ratio)),
    )


_NOT_KEPT: Final = ("in_chans", "norm_layer", "img_size", *POOLING_ARGUMENTS)
"""Arguments of timm that an `Architecture` has otherwise: as a constant, as its epsilon, from weights, as embedding."""


def _timm_model(name: str, arguments: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the architecture that timm builds by a name and arguments; of an unknown name, what the arguments say."""
    import timm

    kwargs = {key: value for key, value in arguments.items() if key in TIMM_ARGS.read and value is not None}
    exists = timm.is_model(name)
    plain = "vit_tiny_patch16_224"
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name if exists else plain, num_classes=0, **kwargs)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path}: timm builds no {name} of {kwargs}; import its weights alone") from error
    if not exists:
        unknown = f"layers of a plain ViT, because timm {timm.__version__} has no {name!r}"
        return {"heads": arguments.get("num_heads"), "assumed": (unknown,)}
    architecture = describe_model(name, model, {k: v for k, v in kwargs.items() if k not in _NOT_KEPT})
    if architecture is None:
        raise ValueError(
            f"{path}: timm's {name} with {kwargs} is no ViT that gtsa-kit computes; docs/checkpoints.md lists them"
        )
    return {
        "architecture": architecture,
        "heads": architecture.heads,
        "activation": architecture.activation,
        "norm_eps": architecture.norm_eps,
        "grid": tuple(model.patch_embed.grid_size),
        **timm_pooling(model),
    }


def describe_model(name: str, model: Any, kwargs: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a model that timm built by a name and arguments, or None if `Encoder` has none."""
    from timm.layers import Attention, GluMlp, Mlp, PatchEmbed, SwiGLU
    from timm.models.eva import Eva, EvaAttention, EvaBlock
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) not in (VisionTransformer, Eva) or type(model.patch_embed) is not PatchEmbed:
        return None
    block, norm = model.blocks[0], model.norm if not isinstance(model.norm, nn.Identity) else model.fc_norm
    activation = _activation_name(block.mlp.act) if type(block.mlp) is Mlp else "gelu"
    is_vit = type(block) in (Block, EvaBlock) and type(block.attn) in (Attention, EvaAttention)
    is_vit = is_vit and type(block.mlp) in (Mlp, GluMlp, SwiGLU) and isinstance(norm, nn.LayerNorm)
    if not is_vit or activation is None or block.attn.gate is not None:
        return None
    # timm's own default stays unnamed; other activations are arguments of VisionTransformer.
    act = {"act_layer": activation} if activation != "gelu" and type(model) is VisionTransformer else {}
    has_class = {"class_token": False} if model.cls_token is None else {}
    kwargs = {**{key: value for key, value in kwargs.items() if key != "act_layer"}, **act, **has_class}
    kwargs |= {"patch_size": model.patch_embed.patch_size[0]} if model.patch_embed.patch_size[0] != PATCH else {}
    heads, depth = block.attn.num_heads, len(model.blocks)
    return Architecture(name, name, model.embed_dim, depth, heads, kwargs, norm_eps=norm.eps)


def _activation_name(module: nn.Module) -> str | None:
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}.get(type(module).__name__)


def _sizes(content: Mapping[str, Any], *names: str) -> Iterator[tuple[str, Any]]:
    yield from ((name, content[name]) for name in names if content.get(name) is not None)


def _listed(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    return ", ".join(names)
