"""Embedding of imported weights: the vector that the code of their own family returns for an image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import nn

from gtsa_kit.models.architecture import EMBEDDING_NAMES, Architecture
from gtsa_kit.models.checkpoint_import.conversion import ConvertedWeights
from gtsa_kit.models.checkpoint_import.families import TIMM, Family
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata

ATTENTION_POOLS: Final = ("attn_pool.", "probe", "head.attention.")
"""Parts of the keys of attention pooling, in timm and in transformers."""


class EmbeddingChoice(NamedTuple):
    """Kind of embedding, and why it is this one."""

    kind: str
    """One of `models.architecture.EMBEDDINGS`."""
    reason: str = ""

    @property
    def note(self) -> str:
        """Text for the summary of an import."""
        return f"embedding: {EMBEDDING_NAMES[self.kind]}" + (f", {self.reason}" if self.reason else "")


BY_ORIGIN: Final = {
    # The projectors of GTSA take the patch tokens; the loss of no head reaches the class token.
    "authors": EmbeddingChoice("mean", "which GTSA trains"),
    # VisionTransformer.forward of DINO, and of MoCo v3, which is timm's, return x[:, 0] after the norm; heads take it.
    "dino": EmbeddingChoice("cls", "as DINO's own code"),
    "mocov3": EmbeddingChoice("cls", "as MoCo v3's own code"),
    # mmsegmentation's ViT returns maps alone.
    "mmseg": EmbeddingChoice("mean", "since mmsegmentation returns maps alone"),
    # out_type is "cls_token" by default.
    "mmpretrain": EmbeddingChoice("cls", "as mmpretrain's own code"),
    # VisionTransformer.forward takes x[:, 0] of the encoder, whose last layer is the norm.
    "torchvision": EmbeddingChoice("cls", "as torchvision's own code"),
}
"""Choices by the tool that wrote the weights, where it has one kind of embedding alone."""


def choose_embedding(
    architecture: Architecture,
    metadata: CheckpointMetadata,
    origin: str,
    family: Family,
    converted: ConvertedWeights,
    file: Path,
) -> EmbeddingChoice:
    """Return the embedding that the code of the weights' own family computes.

    Args:
        architecture: Architecture of the weights.
        metadata: What the files beside them say.
        origin: Tool that wrote them.
        family: Family of the weights.
        converted: The weights, and the keys that are not used.
        file: Their file, for errors.

    Raises:
        ValueError: A file beside the weights states another order of norm and mean than the weights have.
    """
    after_mean = any(name.endswith("fc_norm.weight") for name in converted.names.get("norm.weight", ()))
    if metadata.embedding:
        own = "norm of mean" if after_mean else "mean"
        if metadata.embedding_file and metadata.embedding not in (own, "cls"):
            order = "fc_norm" if after_mean else "norm"
            raise ValueError(
                f"{metadata.embedding_file} beside {file} pools by {metadata.embedding!r}, but the last norm of the "
                f"weights is {order}; copy both again"
            )
        is_mean = metadata.embedding != "cls"
        return EmbeddingChoice(own if after_mean and is_mean else metadata.embedding, metadata.embedding_reason)
    if after_mean:
        return EmbeddingChoice("norm of mean", "as the weights have fc_norm")
    if _pools_by_attention(converted.heads):
        return EmbeddingChoice("mean", "since the attention pooling is not computed")
    if not architecture.has_class_token:
        return EmbeddingChoice("mean", "without a class token")
    if origin in BY_ORIGIN:
        return BY_ORIGIN[origin]
    # The first token of last_hidden_state in transformers, which is pooler_output there or what its pooler takes;
    # x_norm_clstoken of DINOv2; the pooling "tok" of open_clip.
    if family is not TIMM:
        return EmbeddingChoice("cls", f"as the code of {family.code}")
    if not architecture.is_eva:  # MAE's code has the same names, and the same default
        return EmbeddingChoice("cls", "as timm's own call")
    if _named_by_timm(converted):
        return EmbeddingChoice("mean", "as timm's own call")
    return EmbeddingChoice("cls", "as the original code")


def timm_pooling(model: Any) -> dict[str, str]:
    """Return the fields of `CheckpointMetadata` for the embedding of a model that timm built."""
    pooling = str(model.global_pool)
    kind = "mean" if isinstance(model.fc_norm, nn.Identity) else "norm of mean"
    is_own = pooling == "avg" and not getattr(model, "pool_include_prefix", False)
    if pooling == "token" and model.cls_token is not None:
        kind, is_own = "cls", True
    reason = "as timm's own call" if is_own else _left(pooling)
    return {"embedding": kind, "embedding_reason": reason, "embedding_file": "config.json"}


def _left(pooling: str) -> str:
    names = {"map": "attention pooling", "avg": "mean of all tokens", "": "lack of pooling"}
    return f"since timm's {names.get(pooling, f'pooling {pooling!r}')} is not computed"


def _pools_by_attention(heads: Iterable[str]) -> bool:
    return any(part in name for name in heads for part in ATTENTION_POOLS)


def _named_by_timm(converted: ConvertedWeights) -> bool:
    """Return whether weights with rotary positions have timm's own names.

    The original files of DINOv3 have storage tokens and periods of the positions, those of EVA02 tables of them.
    """
    original = any("rope" in name for name in converted.weights)
    return not original and converted.names.get("reg_token", ("reg_token",))[0].endswith("reg_token")
