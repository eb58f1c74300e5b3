"""Files of a dataset folder: their names, the journal, and the lock of the process that writes."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

VECTORS, DENSE, ERRORS = "vectors", "dense.zarr", "errors.jsonl"
JOURNAL, JOB, INPUT_INDEX = "journal.json", "job.json", "input_index.sqlite"
LOCK = ".lock"

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@dataclass(frozen=True)
class Journal:
    """Counts of the committed results."""

    next_index: int
    """Index of the first input that is not committed."""
    shards: int = 0
    rows: int = 0
    patches: int = 0
    """Length of the ragged arrays, gaps between shards included."""
    errors: int = 0
    """Lines of errors.jsonl."""
    errors_bytes: int = 0
    """Length of errors.jsonl in bytes."""
    complete: bool = False
    """All inputs are committed."""


def read_journal(out: Path) -> Journal | None:
    """Return the journal, or None if nothing has been committed."""
    path = out / JOURNAL
    return Journal(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def part_name(index: int) -> str:
    """Return the file name of a shard's vectors; names sort in the order of the shards."""
    return f"part-{index:05d}.parquet"


def vector_parts(folder: Path) -> list[Path]:
    """Return the Parquet files of a dataset folder, in the order of the shards."""
    return sorted((folder / VECTORS).glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))


def check_out(out: Path, resume: bool) -> None:
    """Raise `ValueError` if `out` holds files that a new job would overwrite or mix with its own."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a folder")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if JOB in names:
        if not resume:
            raise ValueError(f"{out} holds a job already; continue it with --resume, or choose another folder")
        return
    if others := sorted(name for name in names if name != INPUT_INDEX and not name.startswith(".")):
        raise ValueError(f"{out} is not empty ({others[0]}); choose a new folder")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes from writing into the same folder.

    The operating system releases the lock when the process ends, however it ends. A lock file that counts by its
    existence would survive a kill, so a file system without locks is rejected.

    Raises:
        ValueError: Another process holds the lock, or the file system has no locks.
    """
    lock = FileLock(out / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is writing into {out}; wait for it, or choose another folder") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ValueError(
            f"the file system of {out} has no file locks, so nothing would keep a second process from writing into "
            "the same folder; choose a folder on another file system"
        ) from error
    try:
        yield
    finally:
        lock.release()
