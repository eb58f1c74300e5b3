"""The encoder as exporters want it: tensors in, a plain tuple out. Export wraps the model and never edits it."""

import torch
from torch import Tensor, nn

from gtsa_kit.encoder import Encoder


class ExportGraph(nn.Module):
    """(B, 3, H, W) to (embedding, feature_map)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Batch, height and width stay dynamic."""
        features = self.encoder(images)
        return features.embedding, features.feature_map


WEIGHT_PREFIX = "encoder.vit."
"""Where timm's key names begin inside an exported file."""


def example_input() -> Tensor:
    """An input to trace with: no two of its dynamic sizes are equal, so that none is taken for another."""
    return torch.zeros(2, 3, 96, 64)
