"""Metadata in the config.json of timm, and in the config.json and preprocessor_config.json of transformers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import timm
import torch
from pydantic import BeforeValidator, Field
from timm.layers import Attention, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from gtsa_kit.config import PATCH
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import.sidecar_fields import (
    PROCESSOR,
    TIMM,
    TIMM_ARGS,
    TIMM_PRETRAINED,
    TRANSFORMERS,
    VIT_PROCESSORS,
)
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, ColorStats, Lenient, parse, read_json
from gtsa_kit.models.encoder import INTERPOLATIONS

Positive = Annotated[int, Field(gt=0)]
Color = Annotated[ColorStats, BeforeValidator(lambda value: (value,) * 3 if isinstance(value, int | float) else value)]
"""Values of red, green and blue, or one value for all."""
TRANSFORMERS_ACTIVATIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_tanh"),
    "quick_gelu": "quick_gelu",
}
"""Activations by their names in transformers."""
# Keys are the names of timm, and the numbers of PIL that transformers stores.
_INTERPOLATIONS: Final[Mapping[str, str]] = {name.split(",")[0]: name for name in INTERPOLATIONS}
_RESAMPLES: Final[Mapping[int, str]] = {int(number): name for name, number in INTERPOLATIONS.items()}
LEVELS: Final = 255
"""Largest value of a color in a file."""


class _TransformersConfig(Lenient):
    num_attention_heads: Positive = 12
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    hidden_act: str = "gelu"
    qkv_bias: bool = True


class _Processor(Lenient):
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / LEVELS
    do_normalize: bool = True
    image_mean: Color | None = None
    image_std: Color | None = None
    resample: int | None = None
    offset: bool = False
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None


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
    return CheckpointMetadata(
        **_timm_model(config.architecture, arguments, path),
        qkv_bias=config.model_args.qkv_bias,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=_INTERPOLATIONS.get(interpolation or ""),
        sizes=dict(_sizes(arguments, "embed_dim", "depth", "patch_size", "img_size", "in_chans", *ratio)),
    )


_NOT_KEPT: Final = ("in_chans", "norm_layer", "img_size")
"""Arguments of timm that an `Architecture` has otherwise: as a constant, as its epsilon, and from the weights."""


def _timm_model(name: str, arguments: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the architecture that timm builds by a name and arguments; of an unknown name, what the arguments say."""
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
    }


def describe_model(name: str, model: Any, kwargs: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a model that timm built by a name and arguments, or None if `Encoder` has none."""
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


def read_transformers(path: Path) -> CheckpointMetadata:
    """Read the config.json of transformers, and the preprocessor_config.json beside it if there is one.

    Raises:
        ValueError: A file is invalid, or describes a network or a preprocessing that gtsa-kit does not compute.
    """
    content, config = read_json(path), parse(_TransformersConfig, path)
    TRANSFORMERS.check(content, path)
    if config.hidden_act not in TRANSFORMERS_ACTIVATIONS:
        listed = _listed(TRANSFORMERS_ACTIVATIONS)
        raise ValueError(f"{path} says hidden_act is {config.hidden_act!r}; gtsa-kit's encoders compute {listed}")
    processor = path.with_name("preprocessor_config.json")
    mean, std, interpolation, remarks = _read_processor(processor) if processor.exists() else (None, None, None, ())
    return CheckpointMetadata(
        heads=config.num_attention_heads,
        norm_eps=config.layer_norm_eps,
        qkv_bias=config.qkv_bias,
        activation=TRANSFORMERS_ACTIVATIONS[config.hidden_act],
        mean=mean,
        std=std,
        interpolation=interpolation,
        sizes=dict(
            _sizes(
                content,
                *("hidden_size", "num_hidden_layers", "intermediate_size", "image_size", "patch_size", "num_channels"),
            )
        ),
        remarks=remarks,
    )


def _read_processor(path: Path) -> tuple[ColorStats | None, ColorStats | None, str, tuple[str, ...]]:
    """Return mean and std for colors of 0 to 1, the interpolation, and remarks.

    transformers computes (color * rescale_factor - mean) / std of colors of 0 to 255; gtsa-kit divides them by 255
    first, so another factor is folded into mean and std.
    """
    PROCESSOR.check(read_json(path), path)
    config = parse(_Processor, path)
    kind = config.image_processor_type or config.feature_extractor_type or VIT_PROCESSORS[0]
    _check_processor_type(config, kind, path)
    resample = 2 if config.resample is None else config.resample
    if resample not in _RESAMPLES:
        listed = " or ".join(f"{number} ({name.split(',')[0]})" for number, name in _RESAMPLES.items())
        raise ValueError(f"{path} says resample is {resample}; gtsa-kit resizes by {listed}")
    mean, std = (config.image_mean, config.image_std) if config.do_normalize else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    factor = (config.rescale_factor if config.do_rescale else 1.0) * LEVELS
    remarks = [] if config.do_normalize else ["do_normalize is false"]
    if abs(factor - 1) > 1e-6:
        value = f"rescale_factor {config.rescale_factor:.6g}" if config.do_rescale else "do_rescale is false"
        mean, std = _divide(mean, factor), _divide(std, factor)
        remarks.append(f"{value}, folded into mean and std")
    if config.offset:
        remarks.append(f"offset is ignored, as {kind} does")
    return mean, std, _RESAMPLES[resample], tuple(remarks)


def _divide(color: ColorStats | None, factor: float) -> ColorStats:
    red, green, blue = color or (0.5, 0.5, 0.5)
    return red / factor, green / factor, blue / factor


def _check_processor_type(config: _Processor, kind: str, path: Path) -> None:
    """Raise `ValueError` if a value is left to the defaults of a processor whose defaults gtsa-kit does not know."""
    if kind in VIT_PROCESSORS:
        return
    if config.offset:
        raise ValueError(f"{path} says offset is true for {kind}, which gtsa-kit does not compute; it must be false")
    required = ("image_mean", "image_std", "resample") if config.do_normalize else ("resample",)
    if missing := [name for name in required if getattr(config, name) is None]:
        raise ValueError(f"{path} leaves {missing[0]} to the default of {kind}, which gtsa-kit does not know; add it")


def _sizes(content: Mapping[str, Any], *names: str) -> Iterator[tuple[str, Any]]:
    yield from ((name, content[name]) for name in names if content.get(name) is not None)


def _listed(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    return ", ".join(names)
