"""Walks through folders and globs in which each folder is visited once, whatever links lead to it."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gtsa_kit.data.entries import OWN_OUTPUT, is_hidden
from gtsa_kit.figures import is_own_figure

_OUTPUT_FILES = (("config.yaml", "train.log"), ("job.json", "input_index.sqlite"))
"""Files by which the folder of a run and that of a dataset are known."""


class Step(NamedTuple):
    """One step of a walk: a folder is entered, a file is found, or one of them is left out."""

    folder: Path
    file: str | None = None
    """Name of a file in the folder; None where the step is about the folder itself."""
    reason: str = ""
    """Reason why the file or the folder is left out."""


def walk(root: Path) -> Iterator[Step]:
    """Walk through a folder; links are followed, hidden names and system folders are passed over.

    A folder that can't be read, and what gtsa-kit wrote, is a step with a reason; all others go on.
    """
    visited: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        folders: list[Path] = []
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:  # a link to a parent, or a second link to a folder
                continue
            visited.add((status.st_dev, status.st_ino))
            if folder != root and is_own_output(folder):
                yield Step(folder, reason=OWN_OUTPUT)
                continue
            yield Step(folder)
            with os.scandir(folder) as items:
                for item in items:
                    if is_hidden(item.name):
                        continue
                    if _is_folder(item):
                        folders.append(Path(item.path))
                    else:
                        yield _file_step(folder, item.name)
        except OSError as error:
            yield Step(folder, reason=f"folder can't be read: {error.strerror}")
        # Sorted, so that the order on the disk does not decide which link to a folder is followed.
        pending += sorted(folders, reverse=True)


def walk_glob(pattern: str) -> Iterator[Step]:
    """Walk through the matches of a glob; `**` follows links as `walk` does, so a link upwards repeats nothing."""
    first: dict[str, Path] = {}
    kept: dict[Path, bool] = {}
    for step in _expand(pattern):
        if step.folder not in kept:
            kept[step.folder] = first.setdefault(os.path.realpath(step.folder), step.folder) == step.folder
        if kept[step.folder]:
            yield step


def is_own_output(folder: Path) -> bool:
    """Return whether a folder is that of a run or of an embedded dataset: its pictures are figures."""
    return any(all((folder / name).is_file() for name in names) for names in _OUTPUT_FILES)


def _file_step(folder: Path, name: str) -> Step:
    return Step(folder, name, OWN_OUTPUT if is_own_figure(folder, name) else "")


def _expand(pattern: str) -> Iterator[Step]:
    """Yield the matching files, and the folders that could not be searched."""
    parts = Path(pattern).parts
    if "**" not in parts:
        for name in glob.iglob(pattern):
            yield _file_step(Path(name).parent, Path(name).name)
        return
    index = parts.index("**")
    rest = parts[index + 1 :] or ("*",)
    bases = glob.glob(str(Path(*parts[:index]))) if index else ["."]
    for base in sorted(bases):
        for step in walk(Path(base)):
            if step.reason and step.file is None:
                yield step
            elif step.file is None:
                yield from _expand(os.path.join(glob.escape(str(step.folder)), *rest))


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except PermissionError:  # a link into a locked folder, which the walk reports when it comes there
        return True
    except OSError:  # a link that points to itself
        return False
