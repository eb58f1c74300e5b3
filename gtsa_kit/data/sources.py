"""Where images lie - a folder, a glob, a list, archives, a store behind a URL - and their bytes, read in place."""

import glob
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gtsa_kit.data.image_files import IMAGE_SUFFIXES
from gtsa_kit.data.image_io import ImageError

MOST_BYTES = 2**30
"""Of one file: none is read into memory beyond this."""


class Entry(NamedTuple):
    """One image to be, or what could not be looked at."""

    name: str
    """As tables and files show it: valid UTF-8."""
    locator: str
    """What `Source.read` wants."""
    stamp: str
    """Changes when the content does, as far as can be told without reading it."""
    reason: str = ""
    """Why it can't be read, if that is known already."""


class Source(Protocol):
    """Images in one place. `read` is called from many threads."""

    def entries(self) -> Iterator[Entry]:
        """All of them, in any order, a few at a time in memory."""

    def read(self, locator: str) -> bytes:
        """The content of one file; `ImageError` or `OSError` if there is none."""


def open_source(where: str) -> Source:
    """A source from what a user gives.

    Args:
        where: A folder (searched below), an image, a glob, a text file with a path or URL a line, a Parquet file
            with a column `path`, a `.tar` or `.zip` (or a glob of such), or a URL that fsspec knows.

    Raises:
        ValueError: There is no such thing.
    """
    if "://" in where:
        return UrlSource(where)
    path = Path(where)
    if path.is_dir():
        return FileSource(path, _scan(path))
    if not path.exists():
        return _open_glob(where)
    if path.suffix.lower() in (".tar", ".zip"):
        return _archive(path)
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise ValueError(f"{path} is compressed as a whole, so nothing in it can be reached; unpack it to a .tar")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FileSource(path.parent, [path])
    return ListSource(path)


def _open_glob(where: str) -> Source:
    if not glob.has_magic(where):
        raise ValueError(f"{where} does not exist; give a folder, a glob, a list of paths, a .tar, a .zip or a URL")
    fixed = Path(*_until_magic(Path(where).parts))
    found = next(glob.iglob(where, recursive=True), None)
    if found is None:
        raise ValueError(f"nothing matches {where}; quote the pattern, so that the shell leaves it alone")
    if found.lower().endswith((".tar", ".zip")):
        return ManyArchives(fixed, [Path(name) for name in sorted(glob.glob(where, recursive=True))])
    paths = (Path(name) for name in glob.iglob(where, recursive=True))
    return FileSource(fixed, (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES))


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


@dataclass(frozen=True)
class FileSource:
    """Files on a disk."""

    root: Path
    paths: Iterable["Path | ImageError"]

    def entries(self) -> Iterator[Entry]:
        """One for each path; a folder that can't be read is one too."""
        for path in self.paths:
            if isinstance(path, ImageError):
                yield Entry(show(self.root, path.path), str(path.path), "", path.reason)
            else:
                yield Entry(show(self.root, path), str(path), file_stamp(path))

    def read(self, locator: str) -> bytes:
        """The whole file."""
        return read_file(locator)


@dataclass(frozen=True)
class ListSource:
    """A text file with a path or URL a line, or a Parquet file with a column `path`."""

    file: Path

    def entries(self) -> Iterator[Entry]:
        """A relative path counts from the list's folder or, where nothing is there, from the working directory."""
        root = self.file.parent
        for line in self._parquet() if self.file.suffix.lower() == ".parquet" else self._text():
            if "://" in line:
                yield Entry(line, line, "")
                continue
            path = root / line
            if not path.exists() and os.path.exists(line):
                path = Path(line).absolute()
            yield Entry(show(root, path), str(path), file_stamp(path))

    def read(self, locator: str) -> bytes:
        """From the disk or through fsspec."""
        if "://" not in locator:
            return read_file(locator)
        import fsspec

        files, path = fsspec.core.url_to_fs(locator)
        return read_remote(files, path)

    def _text(self) -> Iterator[str]:
        try:
            with open(self.file, encoding="utf-8-sig", newline="\n") as file:
                yield from (line.strip() for line in file if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.file} is no folder, image, archive or text file (UTF-8) that lists paths: {error}"
            ) from error

    def _parquet(self) -> Iterator[str]:
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


@dataclass(frozen=True)
class TarSource:
    """An uncompressed tar, read by position."""

    path: Path

    def entries(self) -> Iterator[Entry]:
        """Its regular members that are called like images."""
        stamp = file_stamp(self.path)
        try:
            with tarfile.open(self.path, "r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                    if member.isreg() and is_image(member.name):
                        yield Entry(display_name(member.name), f"{member.offset_data}:{member.size}", stamp)
        except (tarfile.TarError, OSError) as error:
            yield Entry(display_name(self.path.name), "", stamp, f"the archive is damaged here: {error}")

    def read(self, locator: str) -> bytes:
        """Bytes from where the member lies."""
        offset, size = (int(part) for part in locator.split(":"))
        check_bytes(size)
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)


class ZipSource:
    """A zip; its directory is held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} is not a readable zip: {error}") from error

    def entries(self) -> Iterator[Entry]:
        """Its members that are called like images."""
        for info in self.zip.infolist():
            if not info.is_dir() and is_image(info.filename):
                yield Entry(display_name(info.filename), info.filename, f"{info.file_size} {info.CRC:08x}")

    def read(self, locator: str) -> bytes:
        """Unpacked, if its checksum holds."""
        info = self.zip.getinfo(locator)
        check_bytes(info.file_size)
        try:
            return self.zip.read(info)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise ImageError(Path(locator), f"can't be unpacked: {error}") from error


class ManyArchives:
    """Several archives; a member is called `archive/member`."""

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self.names = {str(path): show(root, path) for path in paths}
        self.sources = {path: _archive(Path(path)) for path in self.names}

    def entries(self) -> Iterator[Entry]:
        """All members of all archives."""
        for path, source in self.sources.items():
            for entry in source.entries():
                yield entry._replace(name=f"{self.names[path]}/{entry.name}", locator=f"{path}\n{entry.locator}")

    def read(self, locator: str) -> bytes:
        """From the archive that holds it."""
        path, _, inside = locator.partition("\n")
        return self.sources[path].read(inside)


class UrlSource:
    """What fsspec reaches: `s3://`, `gs://`, `hf://`, `http://`, `memory://` and others."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.files, self.path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ValueError(f"{url} needs another package: {error}") from error
        self.url = url
        self.files.invalidate_cache()

    def entries(self) -> Iterator[Entry]:
        """Images below the URL, or those that match it; names count from the part that is no pattern."""
        root = "/".join(_until_magic(self.path.split("/"))).rstrip("/")
        found = False
        for path, info in self._found():
            found = True
            name = path.removeprefix(root).lstrip("/") or path.rsplit("/", 1)[-1]
            yield Entry(display_name(name), path, remote_stamp(info))
        if not found:
            raise ValueError(f"no images at {self.url} (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")

    def read(self, locator: str) -> bytes:
        """The whole object."""
        return read_remote(self.files, locator)

    def _found(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if glob.has_magic(self.path):
            found = self.files.glob(self.path, detail=True)
            yield from ((path, info) for path, info in found.items() if is_image(path))
        elif is_image(self.path):
            yield self.path, self.files.info(self.path)
        else:
            for here, _, files in self.files.walk(self.path, detail=True):
                for name, info in files.items():
                    path = info.get("name") or f"{here}/{name}"
                    if is_image(path):
                        yield path, info


def read_file(path: str) -> bytes:
    """A regular file that is not empty and not beyond `MOST_BYTES`, else `ImageError` or `OSError`."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # opening a named pipe would wait for ever
        raise ImageError(Path(path), "not a regular file")
    check_bytes(about.st_size)
    with open(path, "rb") as file:
        return file.read()


def read_remote(files: Any, path: str) -> bytes:
    """An object of an fsspec file system; what its client raises becomes `ImageError`."""
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    try:
        import aiohttp

        errors = (*errors, aiohttp.ClientError)
    except ImportError:
        pass
    try:
        check_bytes(int(files.info(path).get("size") or 0))
        content: bytes = files.cat_file(path)
    except ImageError:
        raise
    except errors as error:
        raise ImageError(Path(path), f"can't be read: {type(error).__name__}: {error}"[:200]) from error
    check_bytes(len(content))
    return content


def check_bytes(size: int) -> None:
    """Raise `ImageError` for what is too large to be read."""
    if size > MOST_BYTES:
        raise ImageError(Path(), f"{size / 2**30:.1f} GiB, above the limit of {MOST_BYTES // 2**30} GiB a file")


def file_stamp(path: Path) -> str:
    """Size and time of change, "" if there is no such file."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{about.st_size} {about.st_mtime_ns}"


def remote_stamp(info: dict[str, Any]) -> str:
    """What a store says of an object that changes with its content."""
    keys = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "blob_id", "created")
    return " ".join(str(info[key]) for key in keys if info.get(key) is not None)


def is_image(name: str) -> bool:
    """By its suffix; hidden names are passed over, and so is what lies in hidden folders."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in parts)


def show(root: Path, path: Path) -> str:
    """A path as tables show it: relative to the root where it lies below it."""
    return display_name((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def display_name(name: str) -> str:
    """Valid UTF-8, whatever the bytes of the name."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _archive(path: Path) -> TarSource | ZipSource:
    return ZipSource(path) if path.suffix.lower() == ".zip" else TarSource(path)


def _scan(folder: Path) -> Iterator[Path | ImageError]:
    """Images below a folder; links to folders are followed, once each. Names are never all in memory."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            about = os.stat(here)
            if (about.st_dev, about.st_ino) in seen:  # a link back up, or a second way in
                continue
            seen.add((about.st_dev, about.st_ino))
            folders = []
            with os.scandir(here) as items:
                for item in items:
                    if item.name.startswith("."):
                        continue
                    if item.is_dir():
                        folders.append(Path(item.path))
                    elif os.path.splitext(item.name)[1].lower() in IMAGE_SUFFIXES:
                        yield Path(item.path)
            waiting += sorted(folders, reverse=True)  # the same way in wins whatever order the disk tells
        except OSError as error:
            yield ImageError(here, f"folder can't be read: {error.strerror}")
