"""Checkpoints of a run, and the encoder that comes out of it."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch

from gtsa_kit import __version__
from gtsa_kit.config import Arch
from gtsa_kit.encoder import ARCHITECTURES, Architecture, Encoder, Preprocessing
from gtsa_kit.files import atomic_write, sync_folder, write_json

SCHEMA = 1


def save_checkpoint(run: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write checkpoints/step_*.ckpt, point `last` at it, and drop all but the newest `keep`.

    `last` is a hard link: it needs no second copy and never dangles.

    Raises:
        OSError: The disk is full, or the folder can't be written; earlier checkpoints are as they were.
    """
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:08d}.ckpt"
    with atomic_write(path) as file:
        try:
            torch.save({"step": step, **state}, file)
        except RuntimeError as error:  # how torch reports that a write failed
            raise OSError(f"the checkpoint {path} could not be written (is the disk full?): {error}") from error
    link = folder / ".last.tmp"
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    os.replace(link, folder / "last")
    sync_folder(folder)
    for old in sorted(folder.glob("step_*.ckpt"))[:-keep]:
        old.unlink()
    return path


def newest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder: one still being written has another name."""
    folder = run / "checkpoints"
    candidates = [*sorted(folder.glob("step_*.ckpt"), reverse=True), folder / "last"]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The content of the newest checkpoint, on the CPU; None where there is none.

    Raises:
        ValueError: The file is damaged.
    """
    path = newest_checkpoint(run)
    if path is None:
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        # Not torch's own words: they advise to load without weights_only, which runs whatever the file says.
        raise ValueError(f"{path} is damaged; delete it to go on from the one before") from error


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
