"""Check that images at another place are those of before: their sizes, and the content of some."""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TypeVar

from gtsa_kit.data.entries import Entry, Source, read_entry

SAMPLES = 32
"""Number of images whose content is compared."""

_MEMBER = re.compile(r"(?:^|\n)\d+:(\d+)$")  # locator of a tar member
_CRC = re.compile(r"\d+ [0-9a-f]{8}")  # stamp of a zip member

T = TypeVar("T")


def spread_sample(items: Sequence[T]) -> Sequence[T]:
    """Return up to `SAMPLES` items, spread over a sequence."""
    return items[:: max(1, len(items) // SAMPLES)][:SAMPLES]


def same_size(a: Entry, b: Entry) -> bool:
    """Return whether two entries have one size, and one checksum where both are known."""
    if _CRC.fullmatch(a.stamp) and _CRC.fullmatch(b.stamp):
        return a.stamp == b.stamp
    sizes = [_size(entry) for entry in (a, b)]
    return sizes[0] == sizes[1] or "" in sizes


def changed_content(source: Source, digests: Iterable[tuple[Entry, str]]) -> list[str]:
    """Return the names of the entries whose SHA-256 is not the given one.

    Raises:
        ImageError: An entry can't be read.
    """
    return [entry.name for entry, digest in digests if sha256(read_entry(source, entry)).hexdigest() != digest]


def describe_differences(missing: Sequence[str], changed: Sequence[str]) -> str:
    """Describe in words which images are missing at a place, and which changed; "" if there are none."""
    named = ((missing, "missing"), (changed, "changed"))
    return " and ".join(f"{len(names)} {verb} (first {names[0]})" for names, verb in named if names)


def _size(entry: Entry) -> str:
    member = _MEMBER.search(entry.locator)
    return member[1] if member else entry.stamp.partition(" ")[0]
