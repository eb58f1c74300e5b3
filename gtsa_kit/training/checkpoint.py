"""Checkpoints of a run, and the encoder that comes out of it."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.files import atomic_write, sync_folder


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
