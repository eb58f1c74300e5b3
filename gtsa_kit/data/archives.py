"""Images in tar and zip archives, read in place."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gtsa_kit.data.entries import (
    Entry,
    PerProcess,
    display_name,
    display_path,
    file_stamp,
    is_visible_image,
)
from gtsa_kit.data.image_io import ImageError, check_file_size

ARCHIVE_SUFFIXES = (".tar", ".zip")
COMPRESSED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class TarSource:
    """An uncompressed tar archive, whose members are read by byte offset."""

    path: Path

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the regular members that have the suffix of an image."""
        stamp = file_stamp(self.path)
        try:
            with tarfile.open(self.path, "r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them in memory
                    if member.isreg() and is_visible_image(member.name):
                        yield Entry(display_name(member.name), f"{member.offset_data}:{member.size}", stamp)
        except (tarfile.TarError, OSError) as error:
            yield Entry(display_name(self.path.name), "", stamp, f"the archive is damaged here: {error}")

    def read(self, locator: str) -> bytes:
        """Return the content of a member; `locator` is offset:size in bytes."""
        offset, size = (int(part) for part in locator.split(":"))
        check_file_size(size, self.path)
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)


class ZipSource:
    """A zip archive, whose central directory is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Open the archive; raise `ValueError` if it is not a readable zip."""
        self.path = path
        self._zip = PerProcess(partial(zipfile.ZipFile, path))
        try:
            self._zip.get()
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} is not a readable zip: {error}") from error

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the members that have the suffix of an image."""
        for info in self._zip.get().infolist():
            if not info.is_dir() and is_visible_image(info.filename):
                yield Entry(display_name(info.filename), info.filename, f"{info.file_size} {info.CRC:08x}")

    def read(self, locator: str) -> bytes:
        """Return the decompressed content of a member; raise `ImageError` if it is missing or damaged."""
        path = Path(locator)
        try:
            archive = self._zip.get()
            info = archive.getinfo(locator)
            check_file_size(info.file_size, path)
            return archive.read(info)
        except KeyError as error:
            raise ImageError(path, f"no longer in {self.path}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ImageError(path, f"can't be unpacked: {error}") from error


class ArchivesSource:
    """Several archives; the name of an image is `archive/member`."""

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self.names = {str(path): display_path(root, path) for path in paths}
        self.sources = {path: open_archive(Path(path)) for path in self.names}

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the images of all archives."""
        for path, source in self.sources.items():
            for entry in source.entries(stamps):
                yield entry._replace(name=f"{self.names[path]}/{entry.name}", locator=f"{path}\n{entry.locator}")

    def read(self, locator: str) -> bytes:
        """Return the content of a member from the archive that holds it."""
        path, _, member = locator.partition("\n")
        return self.sources[path].read(member)


def open_archive(path: Path) -> TarSource | ZipSource:
    """Open a .zip as a zip archive and any other file as a tar archive."""
    return ZipSource(path) if path.suffix.lower() == ".zip" else TarSource(path)
