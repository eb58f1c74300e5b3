"""Writing files so that a kill, a full disk or a power cut leaves the old content or the new, never half of either."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file whose content appears under `path` all at once, when the block ends without an error.

    The temporary file is a hidden neighbor with a fixed name: what a killed process left is overwritten by the next
    write, so rubbish does not pile up.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), all at once."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` by `content` as indented JSON, all at once."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` last through a power cut (where folders can be opened: not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, none if it is missing; a last line torn by a kill is dropped."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # asked of the reading, not before it: a run that begins anew removes it
        return []
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace `path` by one JSON object a line, all at once."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
