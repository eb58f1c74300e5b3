"""Encoder weights on the disk: written by a run, found in a run folder, opened as an `Encoder`."""

from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch

from gtsa_kit import __version__
from gtsa_kit.config import Arch
from gtsa_kit.files import atomic_write, write_json
from gtsa_kit.models.encoder import ARCHITECTURES, Architecture, Encoder, Preprocessing

SCHEMA = 1


def save_encoder(run: Path, weights: dict[str, torch.Tensor], arch: str, summary: dict[str, Any]) -> Path:
    """Write encoder.safetensors (timm's key names) and encoder.json.

    Args:
        run: The run folder.
        weights: `Encoder.vit.state_dict()`.
        arch: Key of `ARCHITECTURES`.
        summary: What the training was, for the reader of encoder.json.
    """
    path = run / "encoder.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_write(path) as file:
        # One entry only: safetensors writes several in random order, and equal runs should give equal files.
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    about = describe_encoder(ARCHITECTURES[cast(Arch, arch)], Preprocessing())
    write_json(path.with_suffix(".json"), about | {"training": summary})
    return path


def describe_encoder(architecture: Architecture, preprocessing: Preprocessing) -> dict[str, Any]:
    """Architecture and preprocessing, as encoder.json and manifests hold them."""
    return {
        "schema": SCHEMA,
        "gtsa_kit": __version__,
        "architecture": architecture.to_dict(),
        "preprocessing": preprocessing.to_dict(),
    }


def load_encoder(source: Path, layers: tuple[int, ...] = ()) -> Encoder:
    """The encoder of a run folder or of a `.safetensors` file that a run wrote, in evaluation mode on the CPU.

    Raises:
        ValueError: Nothing to load there, not one of our architectures, or keys are missing or left over.
    """
    path = find_weights(source)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return build_encoder(guess_architecture(weights), weights, path, layers)


def build_encoder(
    architecture: Architecture | None,
    weights: dict[str, torch.Tensor],
    origin: Path,
    layers: tuple[int, ...] = (),
    preprocessing: Preprocessing | None = None,
) -> Encoder:
    """An encoder with these weights (timm's key names), every key used and none missing, else `ValueError`."""
    if architecture is None:
        raise ValueError(f"{origin} holds no architecture known here ({', '.join(ARCHITECTURES)})")
    encoder = Encoder(architecture, layers=layers, preprocessing=preprocessing)
    try:
        encoder.vit.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{origin} does not fit {architecture.name}: {error}") from error
    return encoder.eval()


def find_weights(source: Path) -> Path:
    """The `.safetensors` file that a run folder holds, or `source` itself."""
    if not source.exists():
        raise ValueError(f"{source} does not exist")
    if not source.is_dir():
        return source
    path = source / "encoder.safetensors"
    if path.exists():
        return path
    if (source / "checkpoints").exists():
        raise ValueError(
            f"{source} is a run that has not ended yet; finish it with: gtsa train --resume --out {source}"
        )
    raise ValueError(f"{source} is not a run folder: it holds no encoder.safetensors")


def guess_architecture(weights: dict[str, torch.Tensor]) -> Architecture | None:
    """The architecture that has these weights' width and depth, None if there is none."""
    position = weights.get("pos_embed")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    for architecture in ARCHITECTURES.values():
        if position is not None and (position.shape[-1], depth) == (architecture.width, architecture.depth):
            return architecture
    return None
