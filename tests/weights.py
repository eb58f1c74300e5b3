"""Weights of runs that were never trained."""

from pathlib import Path


def save_random(folder: Path, arch: str) -> None:
    """A run of random weights, with real variance everywhere: timm's biases, norms, positions would hide mistakes."""
    import torch

    from gtsa_kit.checkpoint import save_encoder
    from gtsa_kit.encoder import Encoder

    torch.manual_seed(0)
    weights = Encoder(arch).vit.state_dict()
    varied = {n: t + torch.randn_like(t) * (0.3 if t.ndim < 2 else 0.02) for n, t in weights.items()}
    save_encoder(folder, varied, arch, {})
