"""Metadata in the open_clip_config.json of open_clip."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from gtsa_kit.models.checkpoint_import.processors import Color
from gtsa_kit.models.checkpoint_import.sidecar_fields import Fields
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, Lenient, parse, read_json
from gtsa_kit.models.preprocessing import INTERPOLATIONS

OPEN_CLIP_CONFIG: Final = "open_clip_config.json"
OPEN_CLIP_FILES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of weights files beside an open_clip_config.json."""
_SIZES: Final = ("layers", "width", "image_size", "patch_size", "mlp_ratio")
"""Sizes of the vision tower that the weights determine."""
_MODEL: Final = Fields(
    read=("vision_cfg", "quick_gelu"),
    harmless={
        "of the text tower, and of heads": (
            *("embed_dim", "text_cfg", "custom_text", "multimodal_cfg", "init_logit_scale", "init_logit_bias"),
            *("nonscalar_logit_scale", "output_dict", "cast_dtype"),
        )
    },
    neutral={},
)
_VISION: Final = Fields(
    read=(*_SIZES, "head_width", "timm_model_name", "pool_type", "final_ln_after_pool", "timm_pool"),
    harmless={
        "training only": ("patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained"),
        "of the head, which is skipped": (
            *("attentional_pool", "attn_pooler_queries", "attn_pooler_heads"),
            *("output_tokens", "timm_proj", "timm_proj_bias"),
        ),
    },
    neutral={
        "no_ln_pre": (False,),
        "ls_init_value": (),
        "pos_embed_type": ("learnable",),
        "global_average_pool": (False,),
    },
)
_PREPROCESS: Final = Fields(
    read=("mean", "std", "interpolation"),
    harmless={"images are RGB, stretched to the requested size": ("size", "mode", "resize_mode", "fill_color")},
    neutral={},
)


class _Vision(Lenient):
    width: Annotated[int, Field(gt=0)] = 768
    head_width: Annotated[int, Field(gt=0)] = 64
    timm_model_name: str | None = None
    attentional_pool: bool | str = False
    pool_type: Literal["tok", "avg", "none"] = "tok"
    final_ln_after_pool: bool = False
    timm_pool: Literal["avg", "token", "map", "abs_attn", "rot_attn", ""] = "avg"


class _Model(Lenient):
    vision_cfg: _Vision = _Vision()
    quick_gelu: bool = False


class _Preprocess(Lenient):
    mean: Color | None = None
    std: Color | None = None
    interpolation: str = "bicubic"


class _Config(Lenient):
    model_cfg: _Model
    preprocess_cfg: _Preprocess = _Preprocess()


def read_open_clip(path: Path) -> CheckpointMetadata:
    """Read an open_clip_config.json.

    Raises:
        ValueError: It is invalid, or describes a network or a preprocessing that gtsa-kit does not compute.
    """
    content, config = read_json(path), parse(_Config, path)
    vision: dict[str, Any] = content["model_cfg"].get("vision_cfg") or {}
    _MODEL.check(content["model_cfg"], path, "model_cfg")
    _VISION.check(vision, path, "model_cfg.vision_cfg")
    _PREPROCESS.check(content.get("preprocess_cfg") or {}, path, "preprocess_cfg")
    interpolation = {name.split(",")[0]: name for name in INTERPOLATIONS}
    preprocess, own = config.preprocess_cfg, config.model_cfg.vision_cfg
    if preprocess.interpolation not in interpolation:
        raise ValueError(
            f"{path} says interpolation is {preprocess.interpolation!r}; "
            f"gtsa-kit resizes by {' or '.join(interpolation)}"
        )
    network: dict[str, Any] = {}
    if not own.timm_model_name:  # a tower of timm has its own activation and heads
        network["sizes"] = {name: vision[name] for name in _SIZES if vision.get(name) is not None}
        network["heads"] = own.width // own.head_width
        network["activation"] = "quick_gelu" if config.model_cfg.quick_gelu else "gelu"
        network["norm_eps"] = 1e-5
    network |= _pooling(own)
    return CheckpointMetadata(
        mean=preprocess.mean, std=preprocess.std, interpolation=interpolation[preprocess.interpolation], **network
    )


def _pooling(vision: _Vision) -> dict[str, str]:
    """Return the embedding that open_clip's vision tower passes to its projection; nothing for attention pooling.

    The weights of a tower of timm tell whether its norm comes before or after a mean.
    """
    pooling = vision.timm_pool if vision.timm_model_name else vision.pool_type
    if pooling in ("map", "abs_attn", "rot_attn") or (vision.attentional_pool and not vision.timm_model_name):
        return {}
    kind = "cls" if pooling in ("tok", "token") else "mean"
    if kind == "mean" and vision.final_ln_after_pool and not vision.timm_model_name:
        kind = "norm of mean"
    is_pooled = pooling not in ("none", "")
    reason = f"as {OPEN_CLIP_CONFIG} says" if is_pooled else "since open_clip's lack of pooling is not computed"
    return {"embedding": kind, "embedding_reason": reason}
