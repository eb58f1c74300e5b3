"""Locations that a dataset folder remembers, absolute and relative to itself, so that it can be read from anywhere."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def absolute_location(where: str) -> str:
    """Return a path, glob or URL in a form that does not depend on the working directory."""
    return where if "://" in where or not where else str(Path(where).absolute())


def record_location(where: str, folder: Path) -> dict[str, str | None]:
    """Return the absolute form of a path, glob or URL and, for one on this disk, its path relative to `folder`.

    The relative path still holds if both are moved together.
    """
    return {"path": absolute_location(where), "relative": _relative(where, folder)}


def known_locations(record: Mapping[str, Any] | None, folder: Path) -> tuple[str, ...]:
    """Return the locations that a record of `record_location` names for a `folder` that may have moved since."""
    record = record or {}
    absolute, relative = record.get("path"), record.get("relative")
    locations = [absolute] if absolute else []
    if relative:
        locations.append(os.path.normpath(os.path.realpath(folder) + os.sep + relative))
    return tuple(dict.fromkeys(locations))


def _relative(where: str, folder: Path) -> str | None:
    if "://" in where:
        return None
    try:
        return Path(os.path.relpath(os.path.realpath(where), os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive of Windows
        return None
