"""Images with a class each: a folder for each class, or a CSV; and their split into training and validation."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gtsa_kit.data.image_files import find_images, natural_key
from gtsa_kit.data.sources import display_name

SPLITS = ("train", "val")


@dataclass(frozen=True)
class SkippedImage:
    """A file that an evaluation goes without."""

    path: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"path": self.path, "reason": self.reason}


@dataclass(frozen=True)
class ClassificationDataset:
    """Images in natural order of their names; so the same data gives the same splits, however it is written."""

    paths: list[Path]
    labels: np.ndarray
    """(N,) int64, into `classes`."""
    classes: tuple[str, ...]
    validation: np.ndarray | None
    """(N,) bool where a split is given; None where it is drawn."""
    skipped: tuple[SkippedImage, ...] = ()


def read_labeled(source: Path) -> ClassificationDataset:
    """Read what a user has.

    Args:
        source: A folder with a sub-folder for each class, perhaps below `train/` and `val/`; or a CSV (UTF-8) with
            columns `path` (relative to the CSV) and `label`, perhaps `split` (train or val).

    Raises:
        ValueError: It is neither, a line of the CSV is wrong, or there are fewer than two classes.
    """
    if source.is_dir():
        rows, skipped = _from_folder(source)
    elif source.suffix.lower() == ".csv":
        rows, skipped = _from_csv(source), []
    else:
        what = "is neither a folder nor a .csv" if source.exists() else "does not exist"
        raise ValueError(f"{source} {what}; give a folder with a sub-folder for each class, or a CSV path,label")
    if not rows:
        raise ValueError(f"{source} holds no image with a class; put each class into a sub-folder of its own")
    rows.sort(key=lambda row: (natural_key(Path(row.split or "", row.name)), row.label))
    given = rows[0].split is not None
    skipped += _lonely(rows, given)
    gone = {row.path for row in skipped}
    rows = [row for row in rows if row.name not in gone]
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        why = f"; {len(skipped)} files are left out, first {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"{source} has {len(classes)} usable class{'es' * (not classes)}, and it takes two{why}")
    number = {name: index for index, name in enumerate(classes)}
    return ClassificationDataset(
        [row.path for row in rows],
        np.array([number[row.label] for row in rows], np.int64),
        classes,
        np.array([row.split == "val" for row in rows]) if given else None,
        tuple(skipped),
    )


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a validation part that has its share of each class: (N,) bool.

    At least one of each class goes to it and at least one stays behind; of a class that has but one, that one stays.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        drawn[members[: min(len(members) - 1, max(1, round(share * len(members))))]] = True
    return drawn


@dataclass(frozen=True)
class _Row:
    path: Path
    name: str
    """As reports show it."""
    label: str
    split: str | None


def _from_folder(root: Path) -> tuple[list[_Row], list[SkippedImage]]:
    found = find_images(root)
    skipped = [SkippedImage(found.name(broken.path), broken.reason) for broken in found.broken]
    parts = [path.relative_to(root).parts for path in found.paths]
    given = {own[0] for own in parts if len(own) > 2} >= set(SPLITS)
    depth = 1 if given else 0
    rows = []
    for path, own in zip(found.paths, parts, strict=True):
        if given and own[0] not in SPLITS:
            skipped.append(SkippedImage(found.name(path), "in neither train/ nor val/"))
        elif len(own) < depth + 2:
            skipped.append(SkippedImage(found.name(path), "in no folder of a class"))
        else:
            rows.append(_Row(path, found.name(path), display_name(own[depth]), own[0] if given else None))
    return rows, skipped


def _from_csv(source: Path) -> list[_Row]:
    rows: dict[str, _Row] = {}
    lines: dict[str, int] = {}
    for number, cells in _csv_lines(source):
        where = f"{source}, line {number}"
        name, label, split = cells["path"], cells["label"], cells.get("split")
        if not name or "\0" in name or not label:
            raise ValueError(f"{where}: a path and a label are needed, got {name!r}, {label!r}")
        if "split" in cells and split not in SPLITS:
            raise ValueError(f"{where}: split is train or val, got {split!r}")
        row = _Row(source.parent / name, Path(name).as_posix(), label, split)
        if rows.setdefault(row.name, row) != row:
            raise ValueError(f"{where}: {name} stands in line {lines[row.name]} too, otherwise; keep one of the two")
        lines.setdefault(row.name, number)
    return list(rows.values())


def _csv_lines(source: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, cells by column without spaces around them)."""
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            heading = [cell.strip() for cell in next(reader, [])]
            if not {"path", "label"} <= set(heading):
                said = ", ".join(heading) or "nothing"
                raise ValueError(f"{source}, line 1: the columns path and label are needed (by commas), got {said}")
            for cells in reader:
                if len(cells) not in (0, len(heading)):
                    raise ValueError(f"{source}, line {reader.line_num}: {len(cells)} cells, not {len(heading)}")
                if cells:
                    yield reader.line_num, dict(zip(heading, (cell.strip() for cell in cells), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source} is not a readable CSV in UTF-8: {error}") from error


def _lonely(rows: Sequence[_Row], given: bool) -> list[SkippedImage]:
    """What nothing can be learnt about: classes with one image, or with none to train on."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.label] = counts.get(row.label, 0) + (row.split != "val")
    least = 1 if given else 2
    why = "none of its class is in train" if given else "the only one of its class"
    return [SkippedImage(row.name, why) for row in rows if counts[row.label] < least]


def left_out_settings(skipped: Sequence[SkippedImage]) -> dict[str, Any]:
    """For the settings of a report."""
    return {"skipped": [item.to_dict() for item in skipped]}
