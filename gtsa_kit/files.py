"""Atomic writing of files: after a kill, a full disk or a power cut a file has its complete old or new content."""

import errno
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pydantic import ValidationError

UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
"""Error numbers by which a file system says that it has no such operation: network disks, FUSE."""


def shell_word(path: str | Path) -> str:
    """Return a path as one word of a command that a user can copy into a shell."""
    return shlex.quote(str(path))


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    The temporary file is a hidden file in the same folder with a fixed name, so that the next write overwrites what a
    killed process left.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield the path of the same name in a hidden folder beside `path`, for a file and the files that belong to it.

    When the block ends without an error, the files move to the folder of `path`; the file itself moves last, when all
    others are there. After an error nothing is left, and files that were there before are unchanged.
    """
    work = path.with_name(f".{path.name}.staged")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir(parents=True)
    try:
        yield work / path.name
        for file in sorted(work.iterdir(), key=lambda file: file.name == path.name):
            os.replace(file, path.parent / file.name)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def final_path(path: Path) -> Path:
    """Return the path that a file inside the folder of `staged` gets when the block ends; any other path as it is."""
    folder = path.parent
    return folder.parent / path.name if folder.name.startswith(".") and folder.name.endswith(".staged") else path


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` with `text` (UTF-8), atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the content of `path` with `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sync(handle: int) -> None:
    """Sync an open file or folder to the disk; does nothing where the file system can't.

    Raises:
        OSError: The disk failed or is full.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def sync_file(path: Path) -> None:
    """Sync the content of a file that another library wrote."""
    with open(path, "rb+") as file:
        sync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename inside it survives a power cut; does nothing on Windows."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in UNSUPPORTED | {errno.EACCES, errno.EISDIR}:  # a disk that opens no folders
            return
        raise
    try:
        sync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file, without an incomplete last line; an empty list if it is missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # no check beforehand: a new run may remove the file at any time
        return []
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the content of `path` with one JSON object per line, atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def first_problem(error: "ValidationError") -> str:
    """Return the first problem of a file that pydantic rejected: the field, and what is wrong with it."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
