"""Frames of files with several images, such as slices of a volume: each an entry with its number in its name.

The first frame of `stack.tif` is named `stack.tif#1`.
"""

import hashlib
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from gtsa_kit.data.channels.read import read_header
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_entry

Frames = Literal["first", "all"]
"""Frames of a file that count as images."""
_NAME = re.compile(r"(.+\.[A-Za-z0-9]+)#([1-9][0-9]{0,8})", re.DOTALL)


def name_frame(name: str, frame: int) -> str:
    """Return the name of a frame, counted from 0, of a file."""
    return f"{name}#{frame + 1}"


def split_frame(name: str) -> tuple[str, int]:
    """Return the name of a file and the number of the frame, counted from 0, that a name stands for."""
    match = _NAME.fullmatch(name) if "#" in name else None
    return (match[1], int(match[2]) - 1) if match else (name, 0)


def each_frame(source: Source, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield an entry for each frame of files with several, by their headers, and all other entries as they are."""
    for entry in entries:
        count = _count(source, entry)
        if count == 1:
            yield entry
        else:
            yield from (entry._replace(name=name_frame(entry.name, frame)) for frame in range(count))


def _count(source: Source, entry: Entry) -> int:
    try:
        with open_entry(source, entry) as content:
            return read_header(content, Path(entry.name)).frames
    except ImageError:  # it is listed as unreadable when it is read
        return 1


class FrameFiles:
    """Reader of entries that keeps the last file in memory, of which the next frames are read. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[str, bytes, str] | None = None

    def __call__(self, source: Source, entry: Entry) -> tuple[bytes, str]:
        """Return the content of an entry's file and its SHA-256.

        Raises:
            ImageError: It can't be read.
        """
        if split_frame(entry.name)[0] == entry.name:
            return _read(source, entry)
        with self._lock:
            if self._last is None or self._last[0] != entry.locator:
                self._last = (entry.locator, *_read(source, entry))
            return self._last[1:]


def _read(source: Source, entry: Entry) -> tuple[bytes, str]:
    content = read_entry(source, entry)
    return content, hashlib.sha256(content).hexdigest()
