"""Runs with random weights."""

from pathlib import Path


def save_random(folder: Path, arch: str) -> None:
    """Write a run of random weights; timm's initial biases, norms and positions are too regular to reveal errors."""
    import torch

    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    torch.manual_seed(0)
    weights = Encoder(arch).vit.state_dict()
    varied = {n: t + torch.randn_like(t) * (0.3 if t.ndim < 2 else 0.02) for n, t in weights.items()}
    save_encoder(folder, varied, arch, {})
