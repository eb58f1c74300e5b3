"""Metadata in the config.json and preprocessor_config.json of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from gtsa_kit.models.checkpoint_import.families import FAMILIES
from gtsa_kit.models.checkpoint_import.families import TRANSFORMERS as VIT
from gtsa_kit.models.checkpoint_import.processors import read_processor
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, Lenient, parse_content, read_json
from gtsa_kit.models.checkpoint_import.transformers_fields import DINOV3_BIASES, TOWERS, TRANSFORMERS, TWO_TOWERS

ACTIVATIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_tanh"),
    "quick_gelu": "quick_gelu",
}
"""Activations by their names in transformers."""
HEADS: Final = {"dinov3_vit": 6}
"""Default number of attention heads of a model type that differs from that of the others, 12."""
SIZES: Final = (
    *("hidden_size", "num_hidden_layers", "intermediate_size", "image_size", "patch_size", "num_channels"),
    *("use_swiglu_ffn", "use_gated_mlp", "num_register_tokens", "mlp_ratio"),
)
"""Fields that the weights determine, and are compared with."""
Positive = Annotated[int, Field(gt=0)]


class _Config(Lenient):
    model_type: str = "vit"
    num_attention_heads: Positive | None = None
    layer_norm_eps: Annotated[float, Field(gt=0)] | None = None
    hidden_act: str | None = None
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    use_gated_mlp: bool = False
    patch_size: Any = 16
    image_size: Any = 224
    rope_theta: Annotated[float, Field(gt=0)] = 100


def read_transformers(path: Path) -> CheckpointMetadata:
    """Read the config.json of transformers, and the preprocessor_config.json beside it if there is one.

    Raises:
        ValueError: A file is invalid, or describes a network or a preprocessing that gtsa-kit does not compute.
    """
    content = _vision_config(read_json(path), path)
    config = parse_content(_Config, content, path)
    kind = config.model_type
    TRANSFORMERS[kind].check(content, path)
    family = FAMILIES.get(kind, VIT)
    processor = read_processor(path.with_name("preprocessor_config.json"), kind)
    sizes = {name: content[name] for name in SIZES if content.get(name) is not None}
    return CheckpointMetadata(
        heads=config.num_attention_heads or HEADS.get(kind, 12),
        norm_eps=config.layer_norm_eps or family.norm_eps,
        qkv_bias=config.qkv_bias,
        activation=_activation(config, family.activation, path),
        mean=processor.mean,
        std=processor.std,
        interpolation=processor.interpolation,
        sizes=sizes,
        remarks=processor.remarks,
        **(_rotary(config, content) if kind == "dinov3_vit" else {}),
    )


def _vision_config(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of the encoder of images, with a model type.

    Raises:
        ValueError: The model type is not taken, or a field beside the towers is unknown.
    """
    kind = content.get("model_type") or "vit"
    if kind in TOWERS:
        TWO_TOWERS.check(content, path)
        tower = {**(content.get("vision_config") or {}), **(content.get("vision_config_dict") or {})}
        content, kind = tower, tower.get("model_type") or TOWERS[kind]
        if kind in TOWERS:  # older versions wrote the type of the whole model
            kind = TOWERS[kind]
    if kind not in TRANSFORMERS:
        raise ValueError(
            f"{path} says model_type is {kind!r}, which gtsa-kit's encoder does not compute; it must be "
            f"{' or '.join(map(repr, (*TRANSFORMERS, *TOWERS)))}"
        )
    return {**content, "model_type": kind}


def _activation(config: _Config, default: str, path: Path) -> str | None:
    """Return the activation of the MLPs; None for gated ones, whose activation is SiLU.

    Raises:
        ValueError: The file names another one than the encoder computes.
    """
    name = config.hidden_act
    if config.use_swiglu_ffn:
        return None  # transformers takes SiLU, whatever the field says
    if config.model_type == "dinov3_vit":
        only = "silu" if config.use_gated_mlp else "gelu"
        if (name or "gelu") != only:
            raise ValueError(
                f"{path} says hidden_act is {name or 'gelu'!r}; for DINOv3 gtsa-kit's encoders compute {only}"
            )
        return None
    if name is None:
        return default
    if name not in ACTIVATIONS:
        raise ValueError(f"{path} says hidden_act is {name!r}; gtsa-kit's encoders compute {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _rotary(config: _Config, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the weights of a ViT without learned positions do not tell: period, and size of the images."""
    sides = [config.image_size] * 2 if isinstance(config.image_size, int) else list(config.image_size)
    patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
    grid = tuple(max(1, side // patch) for side in sides)
    biases = {name: bool(content.get(name, default)) for name, default in DINOV3_BIASES.items()}
    return {"rope_theta": config.rope_theta, "grid": grid, "stated_biases": biases}
