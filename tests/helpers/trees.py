"""Comparing dataset folders byte by byte."""

import hashlib
from pathlib import Path


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file that is part of the result."""
    kept = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
        if path.name != "input_index.sqlite"
    }
