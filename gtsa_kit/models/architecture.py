"""Architectures: which timm ViT an encoder is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

from gtsa_kit.config import PATCH, Arch

RESAMPLINGS: Final = ("bicubic, antialiased", "bicubic", "bicubic, offset 0.1")
"""Ways to resample position embeddings, by the code that the weights were made for.

- "bicubic, antialiased": timm, gtsa-kit, and the original DINOv2 with registers. The bicubic kernel has a = -0.5.
- "bicubic": transformers. a = -0.75, no antialiasing, repeated edges; all as in `torch.nn.functional.interpolate`.
- "bicubic, offset 0.1": the original DINO and DINOv2. As "bicubic", but for a grid that is 0.1 patches larger.
"""
ACTIVATIONS: Final = ("gelu", "gelu_tanh", "quick_gelu")
"""Activations of the MLPs, by timm's names: the exact GELU, its tanh approximation, and x * sigmoid(1.702 x)."""
EMBEDDINGS: Final = ("mean", "cls", "norm of mean")
"""Embeddings: the mean of the patch tokens after the final norm, the class token after it, the norm of the mean."""
EMBEDDING_NAMES: Final[Mapping[str, str]] = {
    "mean": "the mean of the patch tokens",
    "cls": "the class token",
    "norm of mean": "the norm of the mean of the patch tokens",
}
"""Names of `EMBEDDINGS` for messages."""


@dataclass(frozen=True)
class Architecture:
    """Arguments of `timm.create_model(timm_model, num_classes=0, **timm_kwargs)` and the sizes of the ViT it builds."""

    name: str
    timm_model: str
    width: int
    """Embedding dimension D."""
    depth: int
    """Number of blocks."""
    heads: int
    """Number of attention heads."""
    timm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm."""
    resampling: str = RESAMPLINGS[0]
    """Way to resample learned position embeddings, one of `RESAMPLINGS`."""
    rotary_periods: tuple[float, ...] = ()
    """Periods of rotary positions, where they are not those that timm computes."""
    embedding: str = "mean"
    """Kind of embedding, one of `EMBEDDINGS`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for an embedding or a resampling that is not computed."""
        if self.embedding not in EMBEDDINGS or self.resampling not in RESAMPLINGS:
            raise ValueError(f"embedding {self.embedding!r} with positions {self.resampling!r} is not supported")
        if self.embedding == "cls" and not self.has_class_token:
            raise ValueError(f"{self.name} has no class token to take as the embedding; omit --embedding, or give mean")

    @property
    def activation(self) -> str:
        """Activation of the MLPs, one of `ACTIVATIONS`."""
        return str(self.timm_kwargs.get("act_layer", "gelu"))

    @property
    def has_class_token(self) -> bool:
        """True for a ViT with a class token, which then is the first of its tokens."""
        return bool(self.timm_kwargs.get("class_token", True))

    @property
    def is_plain(self) -> bool:
        """True for a ViT that is built without timm."""
        from gtsa_kit.models.plain_vit import is_plain  # torch, which exported files run without

        return is_plain(self.timm_model, self.timm_kwargs)

    @property
    def is_eva(self) -> bool:
        """True for timm's class Eva, which has rotary positions; False for VisionTransformer."""
        if self.is_plain:
            return False
        import timm

        return bool(timm.models.is_model_in_modules(self.timm_model, ["eva"]))

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.timm_kwargs.get("patch_size", PATCH))

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return int(self.timm_kwargs.get("in_chans", 3))

    def with_channels(self, count: int) -> "Architecture":
        """Return the architecture for images of another number of channels."""
        kwargs = {name: value for name, value in self.timm_kwargs.items() if name != "in_chans"}
        return replace(self, timm_kwargs=kwargs if count == 3 else {**kwargs, "in_chans": count})

    def with_embedding(self, kind: str | None) -> "Architecture":
        """Return the architecture with another kind of embedding; None keeps its own.

        Raises:
            ValueError: The kind is unknown, or needs a class token where there is none.
        """
        return replace(self, embedding=kind) if kind else self

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for manifests."""
        return asdict(self) | {"patch": self.patch}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Architecture":
        """Build from a dictionary of a manifest."""
        fields = {name: content[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "rotary_periods": tuple(fields["rotary_periods"])})


ARCHITECTURES: Final[Mapping[Arch, Architecture]] = {
    # For tests: the same operations with 0.2 million parameters.
    "vit_test": Architecture(
        "vit_test", "vit_tiny_patch16_224", 64, 2, 2, {"embed_dim": 64, "depth": 2, "num_heads": 2}
    ),
    # For studies on a few cores: two thirds of the width of ViT-Ti and a third of its depth, and half of its depth.
    "vit_micro": Architecture(
        "vit_micro", "vit_tiny_patch16_224", 128, 4, 2, {"embed_dim": 128, "depth": 4, "num_heads": 2}
    ),
    "vit_mini": Architecture("vit_mini", "vit_tiny_patch16_224", 192, 6, 3, {"depth": 6}),
    "vit_tiny": Architecture("vit_tiny", "vit_tiny_patch16_224", 192, 12, 3),
    "vit_small": Architecture("vit_small", "vit_small_patch16_224", 384, 12, 6),
    "vit_base": Architecture("vit_base", "vit_base_patch16_224", 768, 12, 12),
    "vit_large": Architecture("vit_large", "vit_large_patch16_224", 1024, 24, 16),
}


def check_layers(layers: tuple[int, ...], architecture: Architecture) -> None:
    """Raise `ValueError` if one of the layers is not the index of a block."""
    if any(not 0 <= layer < architecture.depth for layer in layers):
        raise ValueError(f"layers must lie between 0 and {architecture.depth - 1}, got {layers}")


def check_class_token(architecture: Architecture) -> None:
    """Raise `ValueError` if a class token is requested of an architecture without one."""
    if not architecture.has_class_token:
        raise ValueError(f"{architecture.name} has no class token to return; omit --class-token")


def create_vit(architecture: Architecture, drop_path: float = 0.0) -> Any:
    """Build the ViT without classifier; the final norm applies to every token."""
    if architecture.is_plain:
        from gtsa_kit.models.plain_vit import PlainViT

        return PlainViT(architecture.timm_model, architecture.norm_eps, drop_path, **architecture.timm_kwargs)
    import timm  # takes seconds, and exported files run without it
    from torch import nn

    from gtsa_kit.models.drop_path import DropPath

    vit = timm.create_model(
        architecture.timm_model,
        num_classes=0,
        drop_path_rate=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=architecture.norm_eps),
        **{**architecture.timm_kwargs, **pooling_arguments(architecture, "avg")},
    )
    for block in vit.blocks:  # timm uses Identity where the rate is 0
        for name in ("drop_path1", "drop_path2"):
            rate = getattr(getattr(block, name), "drop_prob", 0.0)
            setattr(block, name, DropPath(rate) if rate else nn.Identity())
    return vit


def pooling_arguments(architecture: Architecture, pooling: str) -> dict[str, Any]:
    """Return timm's arguments for a pooling, "avg" or "token", after a final norm of every token."""
    return {"global_pool": pooling, "use_fc_norm" if architecture.is_eva else "fc_norm": False}
