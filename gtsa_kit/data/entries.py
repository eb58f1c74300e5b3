"""Entries of a listing of images: their names, natural order and stamps."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from gtsa_kit.data.formats import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from gtsa_kit.data.image_io import ImageError, image_errors

SYSTEM_FOLDERS = frozenset(
    ["@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found"]
)
"""Names, in lower case, of folders that systems make beside the user's: thumbnails, snapshots and deleted files."""

UNREAD_FORMAT = "a format that is not read"
"""Reason of an entry that listings count and leave out."""
OWN_OUTPUT = "written by gtsa-kit"
"""Reason of an entry, a folder or a figure, that listings name and leave out."""

Handle = TypeVar("Handle")


class Entry(NamedTuple):
    """One image of a listing, or a part of the source that could not be listed."""

    name: str
    """Name in tables and files: valid UTF-8, relative to the source's root where the image lies below it."""
    locator: str
    """Argument of `Source.read`."""
    stamp: str = ""
    """Size and modification time, or a checksum: changes when the content does; "" if unknown."""
    reason: str = ""
    """Reason why the image can't be used, or "" while none is known."""


class Source(Protocol):
    """Protocol of image sources. `read` is thread-safe; a source can be pickled and used in forked processes."""

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield all images in any order, without holding them all in memory; `stamps` may cost a system call each."""

    def read(self, locator: str) -> bytes:
        """Return the content of one image; raises `ImageError` or `OSError`."""


class PerProcess(Generic[Handle]):
    """A handle (open file, network client) that every process opens for itself.

    Forked processes would share file offsets, event loops of network clients don't survive a fork, and neither can be
    pickled.
    """

    def __init__(self, open_handle: Callable[[], Handle]) -> None:
        self._open_handle = open_handle
        self._opened: tuple[int, Handle] | None = None

    def get(self) -> Handle:
        """Return this process's handle, opening it on first use."""
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            opened = self._opened = os.getpid(), self._open_handle()
        return opened[1]

    def __reduce__(self) -> tuple[type["PerProcess[Handle]"], tuple[Callable[[], Handle]]]:
        return type(self), (self._open_handle,)


def read_entry(source: Source, entry: Entry) -> bytes:
    """Return the content of an entry.

    Raises:
        ImageError: The entry can't be read; the message begins with its name.
    """
    path = Path(entry.name)
    if entry.reason:
        raise ImageError(path, entry.reason)
    try:
        with image_errors(path):
            return source.read(entry.locator)
    except ImageError as error:
        raise ImageError(path, error.reason) from error


def sort_entries(entries: Iterable[Entry], by_locator: bool = False) -> list[Entry]:
    """Return entries in natural order of names or of locators, without duplicates (same name and locator)."""
    unique = {(entry.name, entry.locator): entry for entry in entries}
    if by_locator:
        return sorted(unique.values(), key=lambda entry: natural_key(entry.locator))
    return sorted(unique.values(), key=lambda entry: (natural_key(entry.name), os.fsencode(entry.locator)))


def natural_key(name: str | os.PathLike[str]) -> bytes:
    """Return a sort key under which `img2` comes before `img10`; the name itself breaks ties."""
    text = Path(name).as_posix() if isinstance(name, os.PathLike) else name
    key = bytearray()
    for i, part in enumerate(re.split(r"([0-9]+)", text)):
        if i % 2:
            digits = part.lstrip("0").encode()
            key += b"\1" + len(digits).to_bytes(4, "big") + digits
        elif part:
            key += b"\2" + part.encode("utf-8", "surrogatepass") + b"\0"
    return bytes(key) + b"\0" + text.encode("utf-8", "surrogatepass")


def display_path(root: Path, path: Path) -> str:
    """Return the display name of a path: relative to the root where it lies below it."""
    return display_name((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def display_name(name: str) -> str:
    """Return a name as valid UTF-8; bytes that can't be decoded become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def has_image_suffix(name: str) -> bool:
    """Return whether a name has the suffix of an image that is read, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_reason(name: str) -> str | None:
    """Return "" for the name of an image that is read, `UNREAD_FORMAT` for that of another image, else None."""
    suffix = os.path.splitext(name)[1].lower()
    return "" if suffix in IMAGE_SUFFIXES else UNREAD_FORMAT if suffix in UNREAD_SUFFIXES else None


def member_reason(name: str) -> str | None:
    """Return `image_reason` of a relative path; None if it or a folder in it is hidden or made by a system."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if any(is_hidden(part) for part in parts) else image_reason(name)


def is_hidden(name: str) -> bool:
    """Return whether listings pass over a file or folder of this name."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def file_stamp(path: Path) -> str:
    """Return the size and modification time of a file; "" if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
