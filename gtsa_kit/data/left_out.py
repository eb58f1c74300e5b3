"""Files that a listing leaves out, counted and said once."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator

from gtsa_kit.data.entries import OWN_OUTPUT, UNREAD_FORMAT, Entry
from gtsa_kit.data.formats import unread_hint
from gtsa_kit.progress import Note


def without_left_out(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries to read, and warn at the end of those that a listing leaves out.

    These are images of formats that are not read, and folders and figures that gtsa-kit wrote into the source.
    """
    suffixes: Counter[str] = Counter()
    outputs: list[str] = []
    for entry in entries:
        if entry.reason == UNREAD_FORMAT:
            suffixes[os.path.splitext(entry.name)[1].lower()] += 1
        elif entry.reason == OWN_OUTPUT:
            outputs.append(entry.name)
        else:
            yield entry
    if text := describe_left_out(suffixes, outputs):
        warnings.warn(text, Note, stacklevel=2)


def describe_left_out(suffixes: Counter[str], outputs: list[str]) -> str:
    """Return one line on what was left out; "" if nothing was."""
    parts = []
    if suffixes:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
        files = f"{suffixes.total()} image file{'s' * (suffixes.total() > 1)}"
        parts.append(f"left out {files} of formats that are not read ({counts}): {unread_hint(suffixes)}")
    if outputs:
        more = f" and {len(outputs) - 1} more" * (len(outputs) > 1)
        parts.append(f"left out {sorted(outputs)[0]}{more}, written by gtsa-kit")
    return ". ".join(parts)
