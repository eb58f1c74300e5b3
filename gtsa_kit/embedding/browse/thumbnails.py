"""Thumbnails of a dataset's rows, and links to their files; never an image other than the one that was embedded."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from PIL import Image, ImageOps

from gtsa_kit.data.channels.frames import split_frame
from gtsa_kit.data.formats import CHANNEL_SUFFIXES
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError, open_bytes
from gtsa_kit.embedding.browse.source_files import FileState, SourceFiles
from gtsa_kit.embedding.browse.vectors import ImageRow, VectorTable
from gtsa_kit.models.pictures import parse_display_channels, read_picture
from gtsa_kit.models.preprocessing import Preprocessing

Result = TypeVar("Result")

UNREADABLE = "unreadable"
"""Problem of an image that can't be read or decoded any more."""

_NOT_IN_BROWSERS = frozenset([".tif", ".tiff", *CHANNEL_SUFFIXES])
_SENTENCES = {
    FileState.CHANGED.value: "changed since embedding",
    FileState.MISSING.value: "missing",
    FileState.REMOTE.value: "behind a URL",
    UNREADABLE: UNREADABLE,
}


@dataclass(frozen=True)
class Thumbnail:
    """A small image, or the reason why there is none."""

    image: Image.Image | None
    problem: str = ""
    """Reason: "changed", "missing", "remote" or "unreadable"; "" with an image."""


class SourceImages:
    """Images of a dataset's rows, opened again at the locations of their source."""

    def __init__(
        self, sources: Sequence[str], preprocessing: Preprocessing | None = None, display_channels: tuple[int, ...] = ()
    ) -> None:
        """Look for images in `sources`, the known locations of one source; () if none is known.

        Args:
            sources: The locations.
            preprocessing: Preprocessing of the model that embedded them; None for 8-bit RGB.
            display_channels: Channels that pictures show, as `models.pictures` takes them.
        """
        self.files = SourceFiles(sources)
        self.preprocessing, self.display_channels = preprocessing or Preprocessing(), display_channels

    @classmethod
    def of(cls, data: VectorTable, show: str | None = None) -> "SourceImages":
        """Return the images of a dataset, of which other channels than RGB are drawn as `parse_display_channels` says.

        Raises:
            ValueError: See `parse_display_channels`.
        """
        preprocessing = Preprocessing.from_dict(data.manifest.preprocessing)
        return cls(data.sources, preprocessing, parse_display_channels(show, preprocessing))

    def open(self, row: ImageRow) -> Image.Image:
        """Open the picture of a row as upright 8-bit RGB.

        Raises:
            ImageError: It is changed, missing, remote or unreadable.
        """
        content, state = self.files.read(row)
        if content is None:
            raise ImageError(Path(row.path), _SENTENCES[state])
        return self.picture(content, row.path)

    def picture(self, content: bytes, name: str) -> Image.Image:
        """Return the picture of a file's content.

        Raises:
            ImageError: It can't be read.
        """
        if self.preprocessing.is_rgb:
            return open_bytes(content, Path(name))
        return read_picture(content, name, self.preprocessing, self.display_channels, frame=split_frame(name)[1])

    def thumbnails(self, rows: Iterable[ImageRow], side: int) -> Iterator[Thumbnail]:
        """Yield thumbnails in the order of `rows`, at most `side` pixels high and wide."""
        yield from _map_in_threads(lambda row: self._thumbnail(row, side), rows)

    def links(self, rows: Iterable[ImageRow], page: Path) -> Iterator[tuple[str | None, str]]:
        """Yield, for each row, a relative URL of its file for a page and "", or None and the problem."""

        def link(row: ImageRow) -> tuple[str | None, str]:
            file = self.files.file(row)
            if file is None:
                state = self.files.state(row)
                return None, "" if state is FileState.SAME else state.value  # in an archive: no link, no problem
            if file.suffix.lower() in _NOT_IN_BROWSERS:
                return None, ""
            return quote(Path(os.path.relpath(file.absolute(), page.absolute().parent)).as_posix()), ""

        yield from _map_in_threads(link, rows)

    def states(self, rows: Iterable[ImageRow]) -> list[FileState]:
        """Return the states of the files of `rows`."""
        return list(_map_in_threads(self.files.state, rows))

    def _thumbnail(self, row: ImageRow, side: int) -> Thumbnail:
        try:
            content, state = self.files.read(row)
            if content is None:
                return Thumbnail(None, state.value)
            return Thumbnail(shrink(self.picture(content, row.path), side))
        except ImageError:
            return Thumbnail(None, UNREADABLE)


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Return an image with its longer side scaled to `side` pixels."""
    return ImageOps.contain(image, (side, side), Image.Resampling.BICUBIC)


def describe_problems(problems: Iterable[str], total: int) -> str:
    """Return a sentence that counts the images that are not shown; "" if there are none."""
    counts = Counter(problem for problem in problems if problem)
    if not counts:
        return ""
    parts = ", ".join(f"{counts[name]} {text}" for name, text in _SENTENCES.items() if counts[name])
    return f"{counts.total()} of {total} images are not shown: {parts}"


def _map_in_threads(work: Callable[[ImageRow], Result], rows: Iterable[ImageRow]) -> Iterator[Result]:
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=threads) as pool:
        yield from bounded_map(pool, work, rows, window=4 * threads)
