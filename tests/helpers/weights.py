"""Runs with random weights."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtsa_kit.models.encoder_spec import EncoderSpec


def save_random(folder: Path, arch: "str | EncoderSpec") -> None:
    """Write a run of random weights; timm's initial biases, norms and positions are too regular to reveal errors."""
    import torch

    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    torch.manual_seed(0)
    encoder = Encoder(arch) if isinstance(arch, str) else Encoder(arch.architecture, preprocessing=arch.preprocessing)
    weights = encoder.vit.state_dict()
    varied = {n: t + torch.randn_like(t) * (0.3 if t.ndim < 2 else 0.02) for n, t in weights.items()}
    save_encoder(folder, varied, arch, {})
