"""Families of ViTs, by the code that weights were made for, with the facts that their files leave open."""

from dataclasses import dataclass, replace
from typing import Final

from gtsa_kit.models.architecture import RESAMPLINGS
from gtsa_kit.models.checkpoint_import.conversion import ConvertedWeights
from gtsa_kit.models.checkpoint_import.key_maps import library_of
from gtsa_kit.models.checkpoint_import.sidecar_files import ColorStats
from gtsa_kit.models.preprocessing import MEAN, STD

HALF: Final[ColorStats] = (0.5, 0.5, 0.5)
COLORS: Final[dict[str, tuple[ColorStats, ColorStats]]] = {
    "of ImageNet": (MEAN, STD),
    "0.5": (HALF, HALF),
    "of OpenAI's CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation of red, green and blue, 0 to 1, by their name in messages."""
ANTIALIASED, BICUBIC, OFFSET = RESAMPLINGS


@dataclass(frozen=True)
class Family:
    """Facts of a family that its files may leave open; a file beside the weights replaces them."""

    code: str
    """Code that resamples its positions, for messages."""
    resampling: str = ANTIALIASED
    """Way to resample learned positions, one of `models.positions.RESAMPLINGS`."""
    norm_eps: float | None = None
    """Epsilon of LayerNorm; None for that of timm's models, which weights name."""
    colors: str = "of ImageNet"
    """Key of `COLORS`."""
    activation: str = "gelu"
    """One of `models.architecture.ACTIVATIONS`."""


TIMM: Final = Family("timm")
TRANSFORMERS: Final = Family("transformers", BICUBIC, 1e-12, "0.5")
DINO: Final = Family("DINO", OFFSET)
DINOV2: Final = Family("DINOv2", OFFSET, 1e-6)
CLIP: Final = Family("open_clip", ANTIALIASED, 1e-5, "of OpenAI's CLIP", "quick_gelu")
FAMILIES: Final[dict[str, Family]] = {
    "vit": TRANSFORMERS,
    "dinov2": Family("transformers", BICUBIC, 1e-6),
    "dinov2_with_registers": Family("transformers", ANTIALIASED, 1e-6),
    "dinov3_vit": Family("transformers", norm_eps=1e-5),
    "clip_vision_model": Family("transformers", BICUBIC, 1e-5, "of OpenAI's CLIP", "quick_gelu"),
    "siglip_vision_model": Family("transformers", BICUBIC, 1e-6, "0.5", "gelu_tanh"),
}
"""Families of transformers by their model types; all that are not here are as "vit"."""


def find_family(key_format: str, converted: ConvertedWeights, origin: str) -> Family:
    """Return the family of weights, from their names.

    Args:
        key_format: One of `KEY_FORMATS`.
        converted: The weights.
        origin: Tool that wrote them.
    """
    weights = converted.weights
    if library_of(key_format) == "hf":
        return FAMILIES[_model_type(key_format, converted)]
    if key_format == "clip":
        return CLIP
    if "pos_embed" not in weights:
        return TIMM
    registers = converted.names.get("reg_token", ("",))[0].endswith("register_tokens")
    # timm's own files of DINOv2 lack the token of masked patches.
    if registers or (has_mask_token(converted) and any(name.endswith(".ls1.gamma") for name in weights)):
        return replace(DINOV2, resampling=ANTIALIASED) if registers else DINOV2
    return DINO if origin == "dino" else TIMM


def _model_type(key_format: str, converted: ConvertedWeights) -> str:
    """Return the model type of transformers for a format of keys."""
    if key_format.startswith("hf_dinov2"):
        return "dinov2_with_registers" if "reg_token" in converted.names else "dinov2"
    if key_format.startswith("hf_dinov3"):
        return "dinov3_vit"
    if key_format == "hf_clip":
        return "clip_vision_model" if "norm_pre.weight" in converted.weights else "siglip_vision_model"
    return "vit"


def has_mask_token(converted: ConvertedWeights) -> bool:
    """Return whether a file holds the token of masked patches of an encoder, and no decoder, which has one as well."""
    words = [name.split(".") for name in converted.heads]
    decoders = any(word.startswith("decoder_") for name in words for word in name)
    return not decoders and any(name[-1] == "mask_token" for name in words)
