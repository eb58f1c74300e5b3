"""A student or teacher with one vector a view.

The published methods read the class token. Here their heads read `Features.embedding`, the mean of the patch tokens:
that is what this package embeds, exports and evaluates for every method, so it is what each of them trains.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gtsa_kit.config import ModelConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Branch
from gtsa_kit.models.encoder import Encoder, normalize


class Pooled(Branch):
    """An encoder, and a head on the mean of its patch tokens."""

    def __init__(self, config: ModelConfig, head: Callable[[int], nn.Module], drop_path: float = 0.0) -> None:
        """The encoder is drawn first: one seed gives all methods the same one.

        Args:
            config: Of the run.
            head: From the encoder's width to a module (N, width) -> (N, K).
            drop_path: Of the student.
        """
        super().__init__()
        self.encoder = Encoder(config.arch, drop_path=drop_path)
        self.head = head(self.encoder.architecture.width)
        self.final_norm = config.norm_before_heads
        if not self.final_norm:  # the final norm is then outside the loss
            self.encoder.vit.norm.requires_grad_(False)

    def follow(self, student: "Pooled") -> None:
        """Become its teacher: the same weights, never trained."""
        self.load_state_dict({k: v for k, v in student.state_dict().items() if k in self.state_dict()})
        self.requires_grad_(False)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V, 3, S, S) uint8 to embeddings (V, B, D) and the patch tokens (B, V, D, h, w)."""
        shape = images.shape[:2]
        features = self.encoder(normalize(images).flatten(0, 1), final_norm=self.final_norm)
        return features.embedding.unflatten(0, shape).transpose(0, 1), features.feature_map.unflatten(0, shape)

    def embed_all(self, views: Views) -> tuple[Tensor, Tensor]:
        """Embeddings of all views (G + L, B, D), globals first, and the tokens of the global ones, without gradient."""
        embeddings, tokens = self.embed(views.global_images)
        if views.local_images.shape[1]:
            embeddings = torch.cat([embeddings, self.embed(views.local_images)[0]])
        return embeddings, tokens.detach()
