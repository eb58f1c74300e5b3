"""Contents of a dataset's images at the locations where their source was, or is now."""

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from threading import Lock

from gtsa_kit.data.archives import ARCHIVE_SUFFIXES
from gtsa_kit.data.channels.frames import split_frame
from gtsa_kit.data.entries import Entry, Source, file_stamp, read_entry
from gtsa_kit.data.image_io import ImageError, read_file
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.browse.vectors import ImageRow


class FileState(StrEnum):
    """State of a row's file, compared with the file that was embedded."""

    SAME = "same"
    CHANGED = "changed"
    MISSING = "missing"
    REMOTE = "remote"
    """Behind a URL, which is not opened: browsing uses no network."""


class SourceFiles:
    """Files of a source, checked by their digests: a row never gives the content of another file."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Look for files in `sources`, the locations of one source, in this order."""
        self._remote = any("://" in source for source in sources)
        self._locations = [_Location(Path(source)) for source in sources if "://" not in source]

    def read(self, row: ImageRow) -> tuple[bytes | None, FileState]:
        """Return the content of a row's file, or None and the reason; `ImageError` if the file can't be read."""
        if self._is_remote(row):
            return None, FileState.REMOTE
        state, unreadable = FileState.MISSING, None
        for location in self._locations:
            try:
                content = location.read(row.path)
            except ImageError as error:
                unreadable = unreadable or error
                continue
            if content is not None and hashlib.sha256(content).hexdigest() == row.sha256:
                return content, FileState.SAME
            state = state if content is None else FileState.CHANGED
        if unreadable is not None:
            raise unreadable
        return None, state

    def file(self, row: ImageRow) -> Path | None:
        """Return the path of the file that was embedded; None if it is in an archive, changed, missing or remote.

        A file of the same size and modification time is taken as the same; of another time, its digest decides.
        """
        if self._is_remote(row):
            return None
        files = [file for location in self._locations if (file := location.file(row.path)) is not None]
        for file in files:
            if file_stamp(file) == row.stamp:
                return file
        size = row.stamp.split(" ")[0]
        return next((f for f in files if file_stamp(f).split(" ")[0] == size and _digest(f) == row.sha256), None)

    def state(self, row: ImageRow) -> FileState:
        """Return the state of a row's file; it is read only where its size and modification time do not decide."""
        try:
            return FileState.SAME if self.file(row) is not None else self.read(row)[1]
        except ImageError:
            return FileState.CHANGED

    def _is_remote(self, row: ImageRow) -> bool:
        return self._remote or "://" in row.path


class _Location:
    """A source at one place: a folder, glob, list of paths, tar or zip, or a glob of archives."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._lock = Lock()  # one thread lists an archive, the others wait

    def read(self, path: str) -> bytes | None:
        """Return the content at a row's path, None if there is none."""
        if self._is_archive:
            return self._read_member(path)
        file = self.file(path)
        return None if file is None else read_file(file)

    def file(self, path: str) -> Path | None:
        """Return the existing file of a row's path; None in an archive."""
        if self._is_archive:
            return None
        for name in dict.fromkeys((path, os.fsdecode(_unescape(path)), split_frame(path)[0])):
            file = self._root / name
            if file.is_file():
                return file
        return None

    @cached_property
    def _is_archive(self) -> bool:
        if self.source.is_dir() or self.source.is_file():
            return self.source.is_file() and self.source.suffix.lower() in ARCHIVE_SUFFIXES
        first = next(glob.iglob(str(self.source), recursive=True), "") if glob.has_magic(str(self.source)) else ""
        return first.lower().endswith(ARCHIVE_SUFFIXES)

    @cached_property
    def _root(self) -> Path:
        """Folder that the paths are relative to: the source's, the list's, or the part of a glob without a pattern."""
        if self.source.is_dir():
            return self.source
        if self.source.exists() or not glob.has_magic(str(self.source)):
            return self.source.parent
        return Path(*takewhile(lambda part: not glob.has_magic(part), self.source.parts))

    @cached_property
    def _archive(self) -> tuple[Source, dict[str, Entry]]:
        """The opened archives, and their entries by name."""
        archive = open_source(str(self.source))
        return archive, {entry.name: entry for entry in archive.entries() if not entry.reason}

    def _read_member(self, path: str) -> bytes | None:
        try:
            with self._lock:
                archive, entries = self._archive
        except ValueError as error:
            raise ImageError(Path(path), str(error)) from error
        entry = entries.get(path) or entries.get(split_frame(path)[0])
        return read_entry(archive, entry) if entry else None


def _unescape(path: str) -> bytes:
    """Return the bytes of a name that was no valid UTF-8, from its display name with backslash escapes."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), path.encode("utf-8"))


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(read_file(file)).hexdigest()
    except ImageError:
        return ""
