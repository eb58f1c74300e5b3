"""The images that a dataset was made from, opened again by the paths in its rows."""

import glob
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import IO
from urllib.parse import quote

from PIL import Image, ImageOps

from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError, open_bytes, open_image

MAX_MEMBER_BYTES = 1 << 30
"""Of one image in an archive."""


class SourceImages:
    """Opens rows by path. `source` is what was embedded: a folder, glob, list of paths, tar or zip; None if unknown.

    Of other sources (a glob of archives, a store behind a URL) no image is opened: looking asks no network.
    """

    def __init__(self, source: str | None) -> None:
        self.source = None if source is None or "://" in source else Path(source)
        self._lock = Lock()  # archives are read by one thread at a time

    def open(self, path: str) -> Image.Image:
        """Upright 8-bit RGB.

        Raises:
            ImageError: It is gone, or was damaged since.
        """
        if self._in_archive:
            return self._open_member(path)
        file = self.file(path)
        if file is None:
            raise ImageError(Path(path), "not known where it lies")
        return open_image(file)

    def file(self, path: str) -> Path | None:
        """Where the image of a row lies; None in an archive, behind a URL, and where the source is unknown."""
        if self.source is None or self._in_archive or "://" in path:
            return None
        return self._root / path

    def link(self, path: str, page: Path) -> str | None:
        """A relative address of the image for a page, None where `file` is."""
        file = self.file(path)
        if file is None:
            return None
        relative = os.path.relpath(file.absolute(), page.absolute().parent)
        return quote(Path(relative).as_posix())

    def thumbnails(self, paths: Iterable[str], side: int) -> Iterator[Image.Image | None]:
        """In the order of `paths`, at most `side` pixels high and wide; None of what can't be opened."""
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(max_workers=threads) as pool:
            yield from bounded_map(pool, lambda path: small(lambda: self.open(path), side), paths, window=4 * threads)

    @cached_property
    def _in_archive(self) -> bool:
        return self.source is not None and self.source.is_file() and self.source.suffix.lower() in (".tar", ".zip")

    @cached_property
    def _root(self) -> Path:
        """What rows are relative to: the folder, that of the list, or the part of a glob that is no pattern."""
        assert self.source is not None
        if self.source.is_dir():
            return self.source
        if self.source.exists() or not glob.has_magic(str(self.source)):
            return self.source.parent
        return Path(*takewhile(lambda part: not glob.has_magic(part), self.source.parts))

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        assert isinstance(self._archive, tarfile.TarFile)
        return {member.name: member for member in self._archive if member.isfile()}

    @cached_property
    def _archive(self) -> tarfile.TarFile | zipfile.ZipFile:
        assert self.source is not None
        return zipfile.ZipFile(self.source) if self.source.suffix.lower() == ".zip" else tarfile.open(self.source)

    def _open_member(self, path: str) -> Image.Image:
        return open_bytes(self._read_member(path), Path(path))

    def _read_member(self, path: str) -> bytes:
        """The bytes of a member, else `ImageError`."""
        try:
            with self._lock, self._member(path) as stream:
                content = stream.read(MAX_MEMBER_BYTES + 1)
        except (KeyError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise ImageError(Path(path), f"can't be read from {self.source}: {error}") from error
        if len(content) > MAX_MEMBER_BYTES:
            raise ImageError(Path(path), f"more than {MAX_MEMBER_BYTES >> 20} MiB")
        return content

    def _member(self, path: str) -> IO[bytes]:
        archive = self._archive
        stream = (
            archive.open(path) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(self._members[path])
        )
        assert stream is not None, "only files are members"
        return stream


def small(opening: Callable[[], Image.Image], side: int) -> Image.Image | None:
    """What is opened, at most `side` pixels high and wide; None if it can't be."""
    try:
        return ImageOps.contain(opening(), (side, side), Image.Resampling.BICUBIC)
    except ImageError:
        return None
