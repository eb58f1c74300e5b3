"""Checkpoints of a run folder: saving and loading."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.files import atomic_write, sync_folder
from gtsa_kit.models.run_folder import CHECKPOINTS, newest_checkpoint


def save_checkpoint(run_dir: Path, step: int, content: dict[str, Any], keep: int) -> Path:
    """Write checkpoints/step_*.ckpt, point `last` to it, and delete all but the newest `keep` checkpoints.

    `last` is a hard link: it takes no space and stays valid when step_*.ckpt is deleted.

    Raises:
        OSError: The disk is full or the folder is not writable; earlier checkpoints are unchanged.
    """
    folder = run_dir / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:08d}.ckpt"
    with atomic_write(path) as file:
        try:
            torch.save({"step": step, **content}, file)
        except RuntimeError as error:  # torch raises this when a write fails
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


def load_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint to the CPU; return None if there is none.

    Raises:
        ValueError: The file is damaged.
    """
    path = newest_checkpoint(run_dir)
    if path is None:
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        # torch's own message is not passed on: it recommends weights_only=False, which executes code from the file.
        raise ValueError(f"{path} is damaged; delete it to resume from the checkpoint before it") from error
