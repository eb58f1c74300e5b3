"""Image files: which there are, in which order, and which of them can't be read."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image

from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, open_image

In = TypeVar("In")


Out = TypeVar("Out")


IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .tif .tiff".split())


@dataclass(frozen=True)
class ImageList:
    """Images in natural order of their paths, and what could not be looked at."""

    root: Path
    paths: list[Path]
    broken: list[ImageError]

    @property
    def total(self) -> int:
        """Images, sound and broken."""
        return len(self.paths) + len(self.broken)

    def name(self, path: Path) -> str:
        """The path as files and tables show it: relative to the root where it lies below it, always valid UTF-8."""
        shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return os.fsencode(shown.as_posix()).decode("utf-8", "backslashreplace")


def find_images(source: Path) -> ImageList:
    """List images below a folder, in a text file of paths (one a line), or one file.

    Listed paths count from the list's folder or, where nothing is there, from the working directory. Links to folders
    are followed, once each; hidden names are passed over; folders that can't be read are reported.

    Raises:
        ValueError: `source` is missing, is none of the three, or holds no image.
    """
    if not source.exists():
        raise ValueError(f"{source} does not exist; give a folder of images or a text file that lists paths")
    broken: list[ImageError] = []
    if source.is_dir():
        root, paths = source, list(_walk(source, broken))
    elif source.suffix.lower() in IMAGE_SUFFIXES:
        root, paths = source.parent, [source]
    else:
        root, paths = source.parent, list(dict.fromkeys(_read_list(source)))
    if not paths:
        why = f"; {len(broken)} folders could not be read, first {broken[0]}" if broken else ""
        raise ValueError(f"no images in {source} (looked for {' '.join(sorted(IMAGE_SUFFIXES))}){why}")
    return ImageList(root, sorted(paths, key=natural_key), broken)


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which `img2` comes before `img10`; the path itself breaks ties."""
    text = path.as_posix()
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part], text


def iter_readable(paths: Iterable[Path]) -> Iterator[tuple[Path, Image.Image]]:
    """Decode one after the other, leaving out what is broken: for looking at a few, where others list the failures."""
    for path in paths:
        with suppress(ImageError):
            yield path, open_image(path)


def sample_images(folder: Path, count: int) -> tuple[list[Image.Image], list[str]]:
    """Up to `count` readable images, evenly spread over a folder, and their names.

    Raises:
        ValueError: None of them can be read.
    """
    paths = find_images(folder).paths
    stride = max(1, len(paths) // count)
    in_turn = [*paths[::stride], *(path for i, path in enumerate(paths) if i % stride)]
    found = list(islice(iter_readable(in_turn), count))
    if not found:
        raise ValueError(f"no image in {folder} can be read")
    return [image for _, image in found], [path.name for path, _ in found]


def validate_images(
    paths: Iterable[Path], max_pixels: int = MAX_PIXELS, on_checked: Callable[[], None] = lambda: None
) -> list[ImageError]:
    """Decode every image, on all cores, and return the broken ones in the order of `paths`.

    Decoders release Python's lock, so threads do; a bounded window of them is in flight, so memory stays flat.
    """

    def check(path: Path) -> ImageError | None:
        try:
            open_image(path, max_pixels)
        except ImageError as broken:
            return broken
        return None

    found = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for result in bounded_map(pool, check, paths, window=4 * (os.cpu_count() or 1)):
            on_checked()
            if result is not None:
                found.append(result)
    return found


def bounded_map(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], window: int) -> Iterator[Out]:
    """`pool.map` that never holds more than `window` items: results in order, memory bounded, Ctrl-C heard."""
    source = iter(items)
    pending = [pool.submit(work, item) for item in islice(source, window)]
    try:
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(work, item) for item in islice(source, 1)]
    finally:
        for future in pending:
            future.cancel()


def _walk(folder: Path, broken: list[ImageError]) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        broken.append(ImageError(Path(error.filename), f"folder can't be read: {error.strerror}"))

    for here, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        about = os.stat(here)
        if (about.st_dev, about.st_ino) in seen:  # a link back up, or a second way in
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(here, name)


def _read_list(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines() also cuts at U+2028 and its like
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is neither a folder, nor an image, nor a text file (UTF-8) that lists paths: {error}"
        ) from error
    return [_listed(line.strip(), file.parent) for line in lines if line.strip()]


def _listed(line: str, folder: Path) -> Path:
    """A listed path: from the list's own folder or, where nothing is there, from the working directory."""
    path = folder / line
    return path if path.exists() or not os.path.exists(line) else Path(line).absolute()
