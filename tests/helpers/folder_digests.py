"""Comparison of dataset folders, byte by byte."""

import hashlib
from pathlib import Path


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file that is part of the result, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "input_index.sqlite"
    }
