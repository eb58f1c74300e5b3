"""Inputs of an embedding in natural order: a list in memory, or an index on the disk for any number of images."""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gtsa_kit.data.channels.frames import Frames, each_frame, split_frame
from gtsa_kit.data.entries import Entry, Source, natural_key, sort_entries
from gtsa_kit.data.image_files import with_channels
from gtsa_kit.data.left_out import without_left_out
from gtsa_kit.files import sync_file, sync_folder

NO_IMAGES = "no images found; files are recognized by their suffix: .jpg .png .webp .bmp .tif and similar"

_COLUMNS = "name BLOB, locator BLOB, stamp TEXT, reason TEXT"


def list_inputs(source: Source, channels: bool = False, frames: Frames = "first") -> list[Entry]:
    """Return the entries of a source in natural order of their names, each file or frame once.

    Args:
        source: The source.
        channels: Whether formats count that are read with all of their channels alone.
        frames: Whether the first frame of a file counts, or each of them.

    Raises:
        ValueError: The source has no entries.
    """
    entries = sort_entries(_listed(source, source.entries(), channels, frames))
    if not entries:
        raise ValueError(NO_IMAGES)
    return entries


@dataclass(frozen=True)
class InputIndex:
    """SQLite file with the entries of a source in the order of `list_inputs`, read without holding them in memory."""

    path: Path
    count: int
    digest: str
    """sha256 of the names, stamps and locators, of which the part that a name already tells does not count."""

    def read(self, first: int, last: int) -> Iterator[Entry]:
        """Yield the entries [first, last), counted from 0."""
        with closing(_connect(self.path)) as database:
            rows = database.execute(
                "SELECT name, locator, stamp, reason FROM entries WHERE number > ? AND number <= ? ORDER BY number",
                (first, last),
            )
            for name, locator, stamp, reason in rows:
                yield Entry(name.decode(), os.fsdecode(locator), stamp, reason)

    def repeated_names(self) -> frozenset[str]:
        """Return the names that more than one entry has, such as files of one name in a list of paths."""
        with closing(_connect(self.path)) as database:
            rows = database.execute("SELECT name FROM entries GROUP BY name HAVING count(*) > 1")
            return frozenset(name.decode() for (name,) in rows)


def write_input_index(source: Source, path: Path, channels: bool = False, frames: Frames = "first") -> InputIndex:
    """List a source into the file `path`, which is written atomically; see `list_inputs`.

    Raises:
        ValueError: The source has no entries.
        OSError: The file can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with closing(_connect(temporary)) as database:
            _fill(database, _listed(source, source.entries(stamps=True), channels, frames))
            database.commit()
        sync_file(temporary)
        os.replace(temporary, path)
    except sqlite3.OperationalError as error:
        raise OSError(f"the index of the inputs can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return open_input_index(path)


def open_input_index(path: Path) -> InputIndex:
    """Open an index that was written before.

    Raises:
        ValueError: It has no entries.
    """
    with closing(_connect(path)) as database:
        digest, count = hashlib.sha256(), 0
        for row in database.execute("SELECT name, locator, stamp FROM entries ORDER BY number"):
            file = split_frame(row[0].decode())[0].encode() if b"#" in row[0] else row[0]
            locator = b"" if row[1].endswith(b"/" + file) else row[1]  # images that moved with their names are the same
            digest.update(b"\0".join((row[0], locator, row[2].encode())) + b"\0\0")
            count += 1
    if not count:
        path.unlink()
        raise ValueError(NO_IMAGES)
    return InputIndex(path, count, digest.hexdigest())


def describe_changes(old: Path, new: Path, stamps: bool = True) -> str:
    """Describe in words how an index differs from an earlier one, in names and, unless at another place, in stamps."""
    queries = {
        "added": "SELECT name FROM entries EXCEPT SELECT name FROM before.entries",
        "removed": "SELECT name FROM before.entries EXCEPT SELECT name FROM entries",
    }
    if stamps:
        queries["changed"] = (
            "SELECT a.name FROM entries a JOIN before.entries b ON a.name = b.name "
            "AND a.stamp != coalesce(b.listed, b.stamp)"
        )
    changes = []
    with closing(_connect(new)) as database:
        database.execute("ATTACH ? AS before", (_uri(old),))
        for verb, query in queries.items():
            count, first = database.execute(f"SELECT count(*), min(name) FROM ({query})").fetchone()  # noqa: S608
            if count:
                changes.append(f"{count} {verb} (first {first.decode()})")
    return ", ".join(changes) or "other files of the same names"


def keep_stamps(old: Path, new: Path) -> None:
    """Give the entries of an index the stamps of an earlier one; their own are kept as those of the listing."""
    with closing(_connect(new)) as database:
        database.execute("ATTACH ? AS before", (_uri(old),))
        database.execute(
            "UPDATE entries SET listed = stamp, "
            "stamp = (SELECT stamp FROM before.entries b WHERE b.number = entries.number)"
        )
    sync_file(new)


def _listed(source: Source, entries: Iterable[Entry], channels: bool, frames: Frames) -> Iterator[Entry]:
    listed = without_left_out(with_channels(entries) if channels else entries)
    yield from each_frame(source, listed) if frames == "all" else listed


def _fill(database: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    database.execute("PRAGMA journal_mode = OFF")  # an unfinished index is discarded
    database.execute("PRAGMA synchronous = OFF")
    database.execute(f"CREATE TEMP TABLE raw (key BLOB, {_COLUMNS})")
    database.execute(f"CREATE TABLE entries (number INTEGER PRIMARY KEY, {_COLUMNS}, listed TEXT)")
    rows = ((natural_key(e.name), e.name.encode(), os.fsencode(e.locator), e.stamp, e.reason) for e in entries)
    while batch := list(islice(rows, 1000)):
        database.executemany("INSERT INTO raw VALUES (?, ?, ?, ?, ?)", batch)
    database.execute("CREATE INDEX temp.by_key ON raw (key, name, locator)")
    database.execute(
        "INSERT INTO entries (name, locator, stamp, reason) SELECT name, locator, stamp, reason FROM raw "
        "GROUP BY key, name, locator ORDER BY key, name, locator"
    )


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(_uri(path), uri=True, check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA temp_store = FILE")
    database.execute("PRAGMA cache_size = -4000")
    return database


def _uri(path: Path) -> str:
    """Return the URI of an index without SQLite's own locks, which network disks lack; the job's folder is locked."""
    return f"{path.absolute().as_uri()}?nolock=1"
