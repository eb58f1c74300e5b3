"""Images in tar and zip archives, read in place."""

import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import (
    Entry,
    PerProcess,
    display_name,
    display_path,
    file_stamp,
    member_reason,
)
from gtsa_kit.data.image_io import ImageError, check_file_size
from gtsa_kit.data.rgb import DECODER_ERRORS

ARCHIVE_SUFFIXES = (".tar", ".zip")
COMPRESSED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class TarSource:
    """An uncompressed tar archive, whose members are read by byte offset."""

    path: Path

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the members that have the suffix of an image; a link among them has a reason."""
        stamp = file_stamp(self.path)
        try:
            with tarfile.open(self.path, "r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them in memory
                    reason = None if member.isdir() else member_reason(member.name)
                    if reason is not None:
                        yield Entry(display_name(member.name), _tar_locator(member), stamp, reason or _tar_link(member))
        except (tarfile.TarError, *DECODER_ERRORS) as error:
            yield Entry(display_name(self.path.name), "", stamp, f"the archive is damaged here: {error}")

    def read(self, locator: str) -> bytes:
        """Return the content of a member; `locator` is offset:size in bytes, with the blocks of a sparse member."""
        offset, size, *blocks = (int(part) for part in locator.split(":"))
        check_file_size(size, self.path)
        with open(self.path, "rb") as file:
            file.seek(offset)
            if not blocks:
                return file.read(size)
            content = bytearray(size)
            for start, length in zip(blocks[::2], blocks[1::2], strict=True):
                content[start : start + length] = file.read(length)
            return bytes(content[:size])


def _tar_locator(member: tarfile.TarInfo) -> str:
    """Return offset:size in bytes, followed by start:length of each stored block of a sparse member."""
    sparse: Any = member.sparse or ()  # pairs of start and length, which the type stubs call bytes
    blocks = [number for block in sparse for number in block]
    return ":".join(str(number) for number in (member.offset_data, member.size, *blocks))


def _tar_link(member: tarfile.TarInfo) -> str:
    """Return why a member is not read: a link has no content of its own."""
    if member.isreg():
        return ""
    return f"a link to {display_name(member.linkname)}" if member.islnk() or member.issym() else "not a regular file"


class ZipSource:
    """A zip archive, whose central directory is kept in memory."""

    def __init__(self, path: Path) -> None:
        """Open the archive; raise `ValueError` if it is not a readable zip."""
        self.path = path
        self._zip = PerProcess(partial(zipfile.ZipFile, path))
        try:
            self._zip.get()
        except (zipfile.BadZipFile, *DECODER_ERRORS) as error:
            raise ValueError(f"{path} is not a readable zip: {error}") from error

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the members that have the suffix of an image.

        Of several members of one name the last one is read, as unzip does; the others have a reason.
        """
        archive = self._zip.get()
        for info in archive.infolist():
            reason = None if info.is_dir() else member_reason(info.filename)
            if reason is None:
                continue
            entry = Entry(display_name(info.filename), info.filename, f"{info.file_size} {info.CRC:08x}", reason)
            if archive.getinfo(info.filename) is not info:
                entry = entry._replace(locator=f"{info.header_offset}", reason="a later member has the same name")
            yield entry

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
        except ImageError:
            raise
        except (zipfile.BadZipFile, lzma.LZMAError, *DECODER_ERRORS) as error:
            raise ImageError(path, f"can't be unpacked: {error}") from error


class ArchivesSource:
    """Several archives; the name of an image is `archive/member`."""

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self.names = {str(path): display_path(root, path) for path in paths}
        self.sources: dict[str, TarSource | ZipSource] = {}
        self.unreadable: dict[str, str] = {}
        for path in self.names:
            try:
                self.sources[path] = open_archive(Path(path))
            except ValueError as error:
                self.unreadable[path] = str(error)

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the images of all archives, and one entry with a reason for each archive that can't be opened."""
        for path, reason in self.unreadable.items():
            yield Entry(self.names[path], path, reason=reason)
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
