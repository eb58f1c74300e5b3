"""What there is to embed, in natural order, on disk: a million paths take no memory, and any place can be gone to."""

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gtsa_kit.data.sources import Entry, Source
from gtsa_kit.files import sync_folder

_COLUMNS = "name BLOB, locator BLOB, stamp TEXT, reason TEXT"


@dataclass(frozen=True)
class Listing:
    """A sorted listing; places count from 0."""

    path: Path
    count: int
    digest: str
    """Of names, places where they are read, and stamps."""

    def read(self, first: int, last: int) -> Iterator[tuple[int, Entry]]:
        """(place, entry) of places [first, last)."""
        with closing(_connect(self.path)) as database:
            rows = database.execute(
                "SELECT place, name, locator, stamp, reason FROM entries WHERE place > ? AND place <= ? ORDER BY place",
                (first, last),
            )
            for place, name, locator, stamp, reason in rows:
                yield place - 1, Entry(name.decode(), os.fsdecode(locator), stamp, reason)


def write_listing(source: Source, path: Path) -> Listing:
    """List a source into `path`, sorted and each file once; all at once.

    Raises:
        ValueError: There is nothing in it.
        OSError: It can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with closing(_connect(temporary)) as database:
            _sort_into(database, source)
            database.commit()
        _sync(temporary)
        os.replace(temporary, path)
    except sqlite3.OperationalError as error:
        raise OSError(f"the listing can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return open_listing(path)


def open_listing(path: Path) -> Listing:
    """A listing that was written before."""
    with closing(_connect(path)) as database:
        digest, count = hashlib.sha256(), 0
        for row in database.execute("SELECT name, locator, stamp FROM entries ORDER BY place"):
            digest.update(b"\0".join((row[0], row[1], row[2].encode())) + b"\0\0")
            count += 1
    if not count:
        path.unlink()
        raise ValueError("no images there (by their suffix: .jpg .png .webp .bmp .tif and their like)")
    return Listing(path, count, digest.hexdigest())


def describe_changes(old: Path, new: Path) -> str:
    """How a listing differs from an earlier one, in words."""
    with closing(_connect(new)) as database:
        database.execute("ATTACH ? AS before", (str(old),))
        said = []
        for word, query in (
            ("came", "SELECT name FROM entries EXCEPT SELECT name FROM before.entries"),
            ("went", "SELECT name FROM before.entries EXCEPT SELECT name FROM entries"),
            (
                "changed",
                "SELECT a.name FROM entries a JOIN before.entries b ON a.name = b.name AND a.locator = b.locator "
                "WHERE a.stamp != b.stamp",
            ),
        ):
            rows = database.execute(f"SELECT count(*), min(name) FROM ({query})").fetchone()  # noqa: S608
            if rows[0]:
                said.append(f"{rows[0]} {word} (first {rows[1].decode()})")
    return ", ".join(said) or "other files of the same names"


def natural_bytes(name: str) -> bytes:
    """Bytes that sort as `images.natural_key` does: img2 before img10."""
    parts = re.split(r"([0-9]+)", name)
    key = bytearray()
    for i, part in enumerate(parts):
        if i % 2:
            digits = part.lstrip("0").encode()
            key += b"\1" + len(digits).to_bytes(4, "big") + digits
        elif part:
            key += b"\2" + part.encode("utf-8", "surrogatepass") + b"\0"
    return bytes(key)


def _sort_into(database: sqlite3.Connection, source: Source) -> None:
    database.execute("PRAGMA journal_mode = OFF")  # a listing that is not finished is thrown away
    database.execute("PRAGMA synchronous = OFF")
    database.execute(f"CREATE TEMP TABLE raw (key BLOB, {_COLUMNS})")
    database.execute(f"CREATE TABLE entries (place INTEGER PRIMARY KEY, {_COLUMNS})")
    rows = (
        (natural_bytes(e.name), e.name.encode(), os.fsencode(e.locator), e.stamp, e.reason) for e in source.entries()
    )
    while some := list(islice(rows, 1000)):
        database.executemany("INSERT INTO raw VALUES (?, ?, ?, ?, ?)", some)
    database.execute("CREATE INDEX temp.by_key ON raw (key, name, locator)")
    database.execute(
        "INSERT INTO entries (name, locator, stamp, reason) SELECT name, locator, stamp, reason FROM raw "
        "GROUP BY key, name, locator ORDER BY key, name, locator"
    )


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA temp_store = FILE")
    database.execute("PRAGMA cache_size = -4000")
    return database


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
