"""Encoder weights on disk: saving to a run folder, and building an encoder with them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from gtsa_kit.files import atomic_write, write_json
from gtsa_kit.models.architecture import ARCHITECTURES, Architecture
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.version import __version__

SCHEMA = 1
"""Version of the format of encoder.json."""


def save_encoder(
    run_dir: Path, weights: dict[str, torch.Tensor], spec: EncoderSpec | str, summary: dict[str, Any]
) -> Path:
    """Write encoder.safetensors (timm key names) and encoder.json; return the path of the first.

    Args:
        run_dir: Run folder.
        weights: `Encoder.vit.state_dict()`.
        spec: Architecture and preprocessing, or a key of `ARCHITECTURES`.
        summary: Description of the training, stored in encoder.json under `training`.
    """
    path = run_dir / "encoder.safetensors"
    save_weights(path, weights)
    spec = EncoderSpec.named(spec) if isinstance(spec, str) else spec
    description = describe_encoder(spec.architecture, spec.preprocessing)
    write_json(path.with_suffix(".json"), description | {"training": summary})
    return path


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_write(path) as file:
        # A single metadata entry: safetensors writes several in random order, and equal runs must give equal files.
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))


def describe_encoder(architecture: Architecture, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return architecture and preprocessing in the format of encoder.json and manifests."""
    return {
        "schema": SCHEMA,
        "gtsa_kit": __version__,
        "architecture": architecture.to_dict(),
        "preprocessing": preprocessing.to_dict(),
    }


def build_encoder(
    architecture: Architecture, weights: dict[str, torch.Tensor], origin: Path, preprocessing: Preprocessing
) -> Encoder:
    """Build an encoder in evaluation mode with these weights (timm key names).

    Raises:
        ValueError: Keys are missing, unexpected or of another shape.
    """
    encoder = Encoder(architecture, preprocessing=preprocessing)
    try:
        encoder.vit.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{origin} does not fit {architecture.name}: {error}") from error
    return encoder.eval()


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, shapes and float32 values of an encoder's weights, whatever file holds them."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().float().contiguous().numpy()
        digest.update(f"{name} {values.shape} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def guess_architecture(weights: dict[str, torch.Tensor]) -> Architecture | None:
    """Return the one of `ARCHITECTURES` with the width and depth of these weights, or None."""
    patches = weights.get("patch_embed.proj.weight")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    for architecture in ARCHITECTURES.values():
        if patches is not None and (patches.shape[0], depth) == (architecture.width, architecture.depth):
            return architecture
    return None
