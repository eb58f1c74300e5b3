"""Shared parts of the baselines: a branch with one vector per view, and the optional import of lightly.

The published methods feed the class token to their heads. Here the heads read `Features.embedding`, because this
package embeds, exports and evaluates that vector for every method. It is the mean of the patch tokens, unless the run
has `dino.pool=cls` (`mocov3.pool`), or starts from weights with `--embedding cls`.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from gtsa_kit.config import ModelConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Branch
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.encoder_spec import EncoderSpec


def require_lightly(part: str) -> None:
    """Raise `ValueError` if lightly is not installed; called before a run folder is created."""
    if find_spec("lightly") is None:
        raise ValueError(
            f"the {part} needs the package lightly, which is not installed; "
            "install it with: pip install 'gtsa-kit[baselines]'"
        )


def import_lightly(module: str) -> Any:
    """Import the module `lightly.<module>`; lightly is imported only when a baseline is built."""
    return import_module(f"lightly.{module}")


class PooledBranch(Branch):
    """Encoder with a head on its embedding."""

    def __init__(
        self, config: ModelConfig, encoder: EncoderSpec, head: Callable[[int], nn.Module], drop_path: float = 0.0
    ) -> None:
        """Build the encoder, then the head, so that all methods start from the same encoder with the same seed.

        Args:
            config: Model settings of the run.
            encoder: Architecture and preprocessing.
            head: Function from the encoder's width to a module (N, width) -> (N, K).
            drop_path: Stochastic depth rate of the encoder's last block.
        """
        super().__init__()
        self.encoder = encoder.build(drop_path)
        self.head = head(self.encoder.architecture.width)
        self.final_norm = config.norm_before_heads
        if not self.final_norm:  # no loss depends on the final norm then
            self.encoder.vit.norm.requires_grad_(False)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode views (B, V, 3, S, S) uint8 to embeddings (V, B, D) and feature maps (B, V, D, h, w)."""
        batch_and_views = images.shape[:2]
        inputs = normalize(images, self.encoder.preprocessing).flatten(0, 1)
        features = self.encode(inputs, self.final_norm)
        embeddings = features.embedding.unflatten(0, batch_and_views).transpose(0, 1)  # (B * V, D) to (V, B, D)
        return embeddings, features.feature_map.unflatten(0, batch_and_views)

    def embed_all(self, views: Views) -> tuple[Tensor, Tensor]:
        """Encode all views.

        Returns:
            Embeddings (G + L, B, D), global views first, and the detached feature maps (B, G, D, h, w) of the global
            views.
        """
        embeddings, tokens = self.embed(views.global_images)
        if views.local_images.shape[1]:
            embeddings = torch.cat([embeddings, self.embed(views.local_images)[0]])
        return embeddings, tokens.detach()
