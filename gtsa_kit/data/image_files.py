"""Listings of images in natural order, and checks that the images can be read."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image

from gtsa_kit.data.channels.other import other_channels
from gtsa_kit.data.entries import UNREAD_FORMAT, Entry, Source, display_path, read_entry, sort_entries
from gtsa_kit.data.formats import CHANNEL_SUFFIXES, IMAGE_SUFFIXES
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, decode_image, open_image
from gtsa_kit.data.left_out import without_left_out
from gtsa_kit.data.sources import FileSource, open_source

NOT_RGB = "which are no 8-bit RGB"
"""End of the reason of an image with other channels, after what it has."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageList:
    """Images of a source in natural order, held in memory."""

    source: Source
    entries: list[Entry]
    """Images that are not known to be unreadable."""
    unreadable: list[Entry]
    """Images and folders that can't be read, with the reason."""

    @property
    def total(self) -> int:
        """Number of images, readable or not."""
        return len(self.entries) + len(self.unreadable)


@dataclass(frozen=True)
class FileList(ImageList):
    """Image files on a disk in natural order of their paths."""

    root: Path
    """Folder that display names are relative to."""
    paths: list[Path]
    """Paths of `entries`."""

    def name(self, path: Path) -> str:
        """Return the display name of a path: valid UTF-8, relative to the root where it lies below it."""
        return display_path(self.root, path)


def list_images(where: str, stamps: bool = False, channels: bool = False) -> ImageList:
    """List the images of a source in natural order, each once.

    Files are ordered by their paths, and everything else by its name.

    Args:
        where: Source of the images.
        stamps: Whether entries have stamps.
        channels: Whether formats count that are read with all of their channels alone.

    Raises:
        ValueError: `open_source` can't open the source, or it holds no image.
    """
    source = open_source(where)
    by_path = isinstance(source, FileSource)
    listed = with_channels(source.entries(stamps)) if channels else source.entries(stamps)
    entries = sort_entries(without_left_out(listed), by_locator=by_path)
    unreadable = [entry for entry in entries if entry.reason]
    readable = [entry for entry in entries if not entry.reason]
    if not readable:
        reason = ""
        if unreadable:
            first = f"{unreadable[0].locator or unreadable[0].name}: {unreadable[0].reason}"
            reason = f"; {len(unreadable)} folders or archives could not be read, first {first}"
        suffixes = IMAGE_SUFFIXES | CHANNEL_SUFFIXES if channels else IMAGE_SUFFIXES
        raise ValueError(f"no images in {where} (suffixes searched: {' '.join(sorted(suffixes))}){reason}")
    return ImageList(source, readable, unreadable)


def with_channels(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries, those of `CHANNEL_SUFFIXES` as ones that are read."""
    for entry in entries:
        is_read = entry.reason == UNREAD_FORMAT and Path(entry.name).suffix.lower() in CHANNEL_SUFFIXES
        yield entry._replace(reason="") if is_read else entry


def check_source(where: str, channels: bool = False) -> None:
    """Check that a source can be opened and, unless it is a URL, holds an image; it is listed to the first image only.

    Raises:
        ValueError: As for `list_images`.
    """
    source = open_source(where)
    entries = with_channels(source.entries()) if channels else source.entries()
    if "://" not in where and all(entry.reason for entry in entries):
        list_images(where, channels=channels)


def find_images(where: Path, channels: bool = False) -> FileList:
    """List the image files of a folder, a glob, a list, or one file, for code that needs paths of files.

    With `channels`, formats count that are read with all of their channels alone.

    Raises:
        ValueError: As for `list_images`, or the images are not files on this disk.
    """
    images = list_images(str(where), channels=channels)
    if not isinstance(images.source, FileSource) or any("://" in entry.locator for entry in images.entries):
        raise ValueError(f"{where} holds images that are not files on this disk; copy or unpack them to a folder")
    paths = [Path(entry.locator) for entry in images.entries]
    return FileList(images.source, images.entries, images.unreadable, images.source.root, paths)


def iter_readable(paths: Iterable[Path]) -> Iterator[tuple[Path, Image.Image]]:
    """Yield (path, image) of the images that can be read, and silently skip the others."""
    for path in paths:
        with suppress(ImageError):
            yield path, open_image(path)


def sample_images(folder: Path, count: int) -> tuple[list[Image.Image], list[str]]:
    """Return up to `count` readable images, spread evenly over a folder, and their file names.

    Raises:
        ValueError: None of them can be read.
    """
    paths = find_images(folder).paths
    stride = max(1, len(paths) // count)
    candidates = [*paths[::stride], *(path for i, path in enumerate(paths) if i % stride)]
    images = list(islice(iter_readable(candidates), count))
    if not images:
        raise ValueError(f"no image in {folder} can be read")
    return [image for _, image in images], [path.name for path, _ in images]


def validate_images(
    source: Source,
    entries: Iterable[Entry],
    max_pixels: int = MAX_PIXELS,
    on_checked: Callable[[], None] = lambda: None,
    read: Callable[[Source, Entry], object] | None = None,
) -> list[Entry]:
    """Decode every image, and return the unreadable ones with their reasons, in the order of `entries`.

    Images are decoded by threads on all cores, since decoders release the GIL; few are in memory at a time. `read`
    decodes images of other channels than 8-bit RGB.
    """

    def check(entry: Entry) -> Entry | None:
        try:
            if read is None:
                _decode_rgb(source, entry, max_pixels)
            else:
                read(source, entry)
        except ImageError as error:
            return entry._replace(reason=error.reason)
        return None

    unreadable = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for result in bounded_map(pool, check, entries, window=4 * (os.cpu_count() or 1)):
            on_checked()
            if result is not None:
                unreadable.append(result)
    return unreadable


def _decode_rgb(source: Source, entry: Entry, max_pixels: int) -> None:
    """Decode an image as 8-bit RGB; the error of one with other channels says so."""
    content = read_entry(source, entry)
    try:
        decode_image(content, Path(entry.name), max_pixels)
    except ImageError as error:
        other = other_channels(content)
        raise (ImageError(error.path, f"{other}, {NOT_RGB}") if other else error) from error


def bounded_map(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[Result]:
    """Yield results in order, as `pool.map` does, with at most `window` items in memory; cancel the rest on errors."""
    source = iter(items)
    pending = [pool.submit(work, item) for item in islice(source, window)]
    try:
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(work, item) for item in islice(source, 1)]
    finally:
        for future in pending:
            future.cancel()
