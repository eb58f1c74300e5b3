"""Images of a dataset's rows, opened again at their source by the paths in the rows."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from PIL import Image, ImageOps

from gtsa_kit.data.archives import open_archive
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError, open_bytes, open_image


class SourceImages:
    """Images of a source: a folder, glob, list of paths, tar or zip; None if the source is unknown.

    Images in a glob of archives or behind a URL are not opened: browsing uses no network.
    """

    def __init__(self, source: str | None) -> None:
        self.source = None if source is None or "://" in source else Path(source)
        self._lock = Lock()  # one thread lists an archive, the others wait

    def open(self, path: str) -> Image.Image:
        """Open the image of a row as upright 8-bit RGB.

        Raises:
            ImageError: It is missing or unreadable.
        """
        if self._is_archive:
            return open_bytes(self._read_member(path), Path(path))
        file = self.file(path)
        if file is None:
            raise ImageError(Path(path), "its location is unknown")
        return open_image(file)

    def file(self, path: str) -> Path | None:
        """Return the file of a row's image; None in an archive, behind a URL, or if the source is unknown."""
        if self.source is None or self._is_archive or "://" in path:
            return None
        return self._root / path

    def link(self, path: str, page: Path) -> str | None:
        """Return a relative URL of the image for a page, None if it has no file."""
        file = self.file(path)
        if file is None:
            return None
        relative = os.path.relpath(file.absolute(), page.absolute().parent)
        return quote(Path(relative).as_posix())

    def thumbnails(self, paths: Iterable[str], side: int) -> Iterator[Image.Image | None]:
        """Yield thumbnails in the order of `paths`, at most `side` pixels high and wide; None for unreadable images."""
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(max_workers=threads) as pool:
            yield from bounded_map(
                pool, lambda path: make_thumbnail(lambda: self.open(path), side), paths, window=4 * threads
            )

    @cached_property
    def _is_archive(self) -> bool:
        return self.source is not None and self.source.is_file() and self.source.suffix.lower() in (".tar", ".zip")

    @cached_property
    def _root(self) -> Path:
        """Folder that the paths are relative to: the source's, the list's, or the part of a glob without a pattern."""
        assert self.source is not None
        if self.source.is_dir():
            return self.source
        if self.source.exists() or not glob.has_magic(str(self.source)):
            return self.source.parent
        return Path(*takewhile(lambda part: not glob.has_magic(part), self.source.parts))

    @cached_property
    def _archive(self) -> tuple[Source, dict[str, Entry]]:
        """The opened archive, and its entries by name."""
        assert self.source is not None
        archive = open_archive(self.source)
        return archive, {entry.name: entry for entry in archive.entries() if not entry.reason}

    def _read_member(self, path: str) -> bytes:
        """Return the content of a member of the archive; `ImageError` if it can't be read."""
        try:
            with self._lock:
                archive, entries = self._archive
        except ValueError as error:
            raise ImageError(Path(path), str(error)) from error
        if path not in entries:
            raise ImageError(Path(path), f"not in {self.source}")
        return read_entry(archive, entries[path])


def make_thumbnail(open_image: Callable[[], Image.Image], side: int) -> Image.Image | None:
    """Return the opened image, at most `side` pixels high and wide; None if it can't be opened."""
    try:
        return ImageOps.contain(open_image(), (side, side), Image.Resampling.BICUBIC)
    except ImageError:
        return None
