"""Checkpoints of a run folder: saving and loading."""

import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.files import atomic_write, sha256_of, shell_word, sync_folder, write_text
from gtsa_kit.models.run_folder import CHECKPOINTS, DIGESTS, is_intact, list_checkpoints, read_digests


def save_checkpoint(run_dir: Path, step: int, content: dict[str, Any], keep: int) -> Path:
    """Write checkpoints/step_*.ckpt, point `last` to it, and delete all but the newest `keep` checkpoints.

    `last` is a hard link: it takes no space and stays valid when step_*.ckpt is deleted. Checkpoints of later steps,
    from which the run was not resumed, are deleted as well.

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
            raise OSError(
                f"the checkpoint {path} could not be written: the disk is full, or not writable; free some space, then "
                f"continue with --resume --out {shell_word(run_dir)}"
            ) from error
        file.flush()
        _add_digest(folder, path.name, sha256_of(Path(file.name)))
    link = folder / ".last.tmp"
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    os.replace(link, folder / "last")
    sync_folder(folder)
    numbered = sorted(folder.glob("step_*.ckpt"))
    index = numbered.index(path)
    for other in [*numbered[: max(0, index + 1 - keep)], *numbered[index + 1 :]]:
        other.unlink()
    return path


def checkpoint_bytes(content: dict[str, Any]) -> int:
    """Return the size of a checkpoint in bytes; nothing is written."""
    size = 0

    class Counter(io.RawIOBase):
        def write(self, data: Any) -> int:
            nonlocal size
            size += memoryview(data).nbytes
            return memoryview(data).nbytes

    torch.save(content, Counter())  # type: ignore[arg-type]
    return size


def load_checkpoint(run_dir: Path, on_damaged: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """Load the newest checkpoint that is not damaged to the CPU; return None if there is none at all.

    Args:
        run_dir: Run folder.
        on_damaged: Called with a sentence if newer ones are damaged.

    Raises:
        ValueError: All are damaged.
    """
    damaged: list[Path] = []
    for path in list_checkpoints(run_dir):
        content = _load(path)
        if content is None:
            damaged.append(path)
            continue
        if damaged:
            on_damaged(f"{', '.join(map(str, damaged))}: damaged; the checkpoint before it, {path.name}, is used")
        return content
    if damaged:
        names = ", ".join(map(str, damaged))
        raise ValueError(f"{names}: damaged, and there is no other checkpoint; start a new run with another --out")
    return None


def _load(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint, or None if it is damaged."""
    if not is_intact(path):
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError):
        # torch's own message is not passed on: it recommends weights_only=False, which executes code from the file.
        return None


def _add_digest(folder: Path, name: str, digest: str) -> None:
    """Add a checkpoint that gets its name next, and the link `last` to it, to SHA256SUMS.

    The line before stays for one more time, in case a kill comes before the rename.
    """
    previous = {old: old_digest for old_digest, old in read_digests(folder) if (folder / old).exists()}
    lines = [f"{old_digest}  {old}" for old, old_digest in previous.items()]
    lines += [f"{digest}  {name}", f"{digest}  last"]
    write_text(folder / DIGESTS, "".join(f"{line}\n" for line in dict.fromkeys(lines)))
