"""Lock of a folder that one process at a time writes into."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from gtsa_kit.files import UNSUPPORTED

LOCK = ".lock"
OWNER = ".lock-owner"
"""Lock on file systems without locks: a file with the number of the process and the name of its machine."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into the same folder.

    The operating system releases the lock when the process ends, however it ends. A file system without locks gets a
    file that names the process; it counts until the process releases it or, on the same machine, is gone.

    Raises:
        ValueError: Another process holds the lock.
    """
    lock = _acquire(folder)
    try:
        yield
    finally:
        lock.release()


def _acquire(folder: Path) -> BaseFileLock:
    lock: BaseFileLock = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
    hint = "wait for it, or choose another folder"
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is writing into {folder}; {hint}") from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    else:
        return lock
    lock = SoftFileLock(folder / OWNER, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another process is writing into {folder}; {hint}. This disk has no file locks: if no process is "
            f"writing, delete {folder / OWNER}"
        ) from error
    return lock
