"""Sources of images for training and embedding: a folder, a glob, a list, archives or a URL, read in place."""

import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gtsa_kit.data.archives import ARCHIVE_SUFFIXES, COMPRESSED_TAR_SUFFIXES, ArchivesSource, open_archive
from gtsa_kit.data.entries import (
    Entry,
    Source,
    display_name,
    display_path,
    file_stamp,
    has_image_suffix,
    image_reason,
    read_entry,
)
from gtsa_kit.data.formats import CHANNEL_SUFFIXES
from gtsa_kit.data.image_io import check_file, image_errors, read_file
from gtsa_kit.data.remote import UrlSource, before_pattern, read_url
from gtsa_kit.data.walk import Step, walk, walk_glob


def open_source(where: str) -> Source:
    """Open a source of images.

    Args:
        where: A folder (searched below), an image, a glob, a text file with one path or URL per line, a Parquet
            file with a column `path`, a `.tar` or `.zip` (or a glob of these), or a URL that fsspec opens.

    Raises:
        ValueError: `where` does not exist or is none of these.
    """
    if not where.strip():
        raise ValueError("the source of the images is an empty text; give a folder, and for this one a dot")
    if "://" in where:
        return UrlSource(where)
    path = Path(where)
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        return _open_glob(where)
    if path.suffix.lower() in ARCHIVE_SUFFIXES:
        return open_archive(path)
    if path.name.lower().endswith(COMPRESSED_TAR_SUFFIXES):
        raise ValueError(f"{path} is compressed as a whole, so its members can't be read in place; unpack it to a .tar")
    if has_image_suffix(path.name) or path.suffix.lower() in CHANNEL_SUFFIXES:
        return FileSource(path.parent, [path])
    return ListSource(path.parent, file=path)


def reopen_source(where: str) -> Source:
    """Open a source whose entries are already known; its folder or list need not exist any more."""
    if "://" not in where and not glob.has_magic(where) and not os.path.exists(where):
        return FileSource(Path(where), ())
    return open_source(where)


@contextmanager
def open_entry(source: Source, entry: Entry, whole: bool = False) -> Iterator[IO[bytes]]:
    """Open an image, so that a part of it can be read; `whole` reads all of it, as does one that is no local file.

    Raises:
        ImageError: The entry can't be read; the message begins with its name.
    """
    if whole or entry.reason or not isinstance(source, FileSource) or "://" in entry.locator:
        yield io.BytesIO(read_entry(source, entry))
        return
    with image_errors(Path(entry.name)):
        check_file(Path(entry.locator))
        file = open(entry.locator, "rb")  # noqa: SIM115 (errors of the block below are none of this file)
    with file:
        yield file


@dataclass(frozen=True)
class FileSource:
    """Files on a disk, or at the URLs that a list names."""

    root: Path
    """Folder that display names are relative to."""
    paths: Sequence[Path] = ()

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield an entry for each path."""
        return (self._entry(path, stamps) for path in self.paths)

    def read(self, locator: str) -> bytes:
        """Return the content of the file, or of the object at the URL."""
        return read_url(locator) if "://" in locator else read_file(Path(locator))

    def _walked(self, steps: Iterable[Step], stamps: bool) -> Iterator[Entry]:
        for step in steps:
            if step.reason:
                path = step.folder / (step.file or "")
                yield Entry(display_path(self.root, path), str(path), "", step.reason)
            elif step.file is not None and (reason := image_reason(step.file)) is not None:
                yield self._entry(step.folder / step.file, stamps)._replace(reason=reason)

    def _entry(self, path: Path, stamps: bool) -> Entry:
        return Entry(display_path(self.root, path), str(path), file_stamp(path) if stamps else "")


@dataclass(frozen=True)
class FolderSource(FileSource):
    """Image files below a folder; links to folders are followed, each folder once, and hidden names are skipped."""

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield an entry for each image, and one with a reason for each folder that is left out."""
        return self._walked(walk(self.root), stamps)


@dataclass(frozen=True)
class GlobSource(FileSource):
    """Image files that match a pattern."""

    pattern: str = ""

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield an entry for each matching image, and one with a reason for each folder that is left out."""
        return self._walked(walk_glob(self.pattern), stamps)


@dataclass(frozen=True)
class ListSource(FileSource):
    """A text file with one path or URL per line, or a Parquet file with a column `path`."""

    file: Path = Path()

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield an entry for each path or URL.

        A relative path is resolved against the list's folder or, if it does not exist there, the working directory.
        """
        for line in self._parquet_rows() if self.file.suffix.lower() == ".parquet" else self._lines():
            if "://" in line:
                yield Entry(display_name(line), line)
                continue
            path = self.root / line
            if not os.path.exists(path) and os.path.exists(line):  # unlike Path.exists, these never raise
                path = Path(line).absolute()
            yield self._entry(path, stamps)

    def _lines(self) -> Iterator[str]:
        try:
            # Bytes that are no UTF-8 may be the name of a file; at the beginning they mean another kind of file.
            with open(self.file, encoding="utf-8-sig", errors="surrogateescape") as file:
                for number, line in enumerate(file):
                    if number == 0:
                        line.encode("utf-8")
                    if line.strip():
                        yield line.strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"{self.file} is neither a folder, nor an image, nor an archive, nor a text file (UTF-8) that lists "
                f"paths: {error}"
            ) from error

    def _parquet_rows(self) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.file} is not a readable Parquet file: {error}") from error
        if "path" not in file.schema_arrow.names:
            raise ValueError(f"{self.file} has no column `path`, only {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=4096, columns=["path"]):
            yield from (str(path) for path in batch.column(0).to_pylist() if path)


def _open_glob(where: str) -> Source:
    if not glob.has_magic(where):
        raise ValueError(f"{where} does not exist; give a folder, a glob, a list of paths, a .tar, a .zip or a URL")
    root = Path(*before_pattern(Path(where).parts))
    first = next((step.file for step in walk_glob(where) if step.file and not step.reason), None)
    if first is None:
        raise ValueError(f"nothing matches {where}; quote the pattern, so that the shell leaves it alone")
    if first.lower().endswith(ARCHIVE_SUFFIXES):
        return ArchivesSource(root, sorted(step.folder / step.file for step in walk_glob(where) if step.file))
    return GlobSource(root, pattern=where)
