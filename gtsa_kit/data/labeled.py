"""Classification datasets: images with a class each, from class folders or a CSV, and their train/validation split."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.csv_table import csv_lines
from gtsa_kit.data.entries import display_name, natural_key
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.skipped import MAX_MISSING, SkippedImage, check_missing, other_split
from gtsa_kit.data.split_rule import Split, SplitRule, choose_validation
from gtsa_kit.data.splits import SplitNames, find_splits, is_split_name


@dataclass(frozen=True)
class ClassificationDataset:
    """Images with classes, in natural order of names, so that the same images give the same splits from any source."""

    paths: list[Path]
    """Paths of the N images."""
    labels: np.ndarray
    """Class numbers (indices of `classes`), (N,) int64."""
    classes: tuple[str, ...]
    """Class names by class number."""
    validation: np.ndarray | None
    """Mask of the validation images, (N,) bool; None if the dataset has no split."""
    skipped: tuple[SkippedImage, ...] = ()
    """Files that are not used."""
    names: tuple[str, ...] = ()
    """Names of the images in reports, relative to the source; none for a dataset that no source was read for."""
    reader: ImageReader = field(default_factory=ImageReader)
    """Reader of the images."""

    def split(self, rule: SplitRule) -> Split:
        """Return which images are for validation: the dataset's own split, or, where it has none, by a rule."""
        if self.validation is not None:
            return Split(self.validation, "as the dataset has it")
        names = self.names or [path.as_posix() for path in self.paths]
        return choose_validation(names, rule, [self.classes[label] for label in self.labels])

    def select(self, kept: np.ndarray, skipped: Sequence[SkippedImage]) -> "ClassificationDataset":
        """Return the images of the (N,) bool array `kept`, with further skipped files; the classes stay."""
        indices = np.flatnonzero(kept)
        return replace(
            self,
            paths=[self.paths[i] for i in indices],
            labels=self.labels[indices],
            validation=None if self.validation is None else self.validation[indices],
            skipped=(*self.skipped, *skipped),
            names=tuple(self.names[i] for i in indices) if self.names else (),
        )


def read_classification_dataset(
    source: Path, max_missing: float = MAX_MISSING, reader: ImageReader | None = None
) -> ClassificationDataset:
    """Read a dataset from class folders or a CSV.

    Args:
        source: A folder with a subfolder for each class, possibly below `train/` and `val/`; or a CSV (UTF-8) with
            the columns `path` (relative to the CSV), `label` and optionally `split` (train or val). The splits may
            have any name of `splits.find_splits`.
        max_missing: Largest share of the CSV's files that may be missing.
        reader: Reader of the images; None reads 8-bit RGB.

    Raises:
        ValueError: The source is neither, a line of the CSV is wrong, too many files are missing, it is unclear what
            the split is, or there are fewer than two classes.
    """
    reader = reader or ImageReader()
    if source.is_dir():
        rows, skipped = _from_folder(source, not reader.channels.is_rgb)
    elif source.suffix.lower() == ".csv":
        rows, skipped = _from_csv(source)
    else:
        problem = "is neither a folder nor a .csv" if source.exists() else "does not exist"
        raise ValueError(f"{source} {problem}; give a folder with a subfolder for each class, or a CSV path,label")
    if not rows:
        raise ValueError(f"{source} holds no image with a class; put each class into a subfolder of its own")
    missing = [SkippedImage(row.name, "no such file") for row in rows if not os.path.lexists(row.path)]
    check_missing(
        missing, len(rows), f"files that {source} lists", "paths count from the folder of the CSV", max_missing
    )
    rows.sort(key=lambda row: (natural_key(Path(row.split or "", row.name)), row.label))
    has_split = rows[0].split is not None
    skipped += missing
    missing_names = {item.path for item in missing}
    rows = [row for row in rows if row.name not in missing_names]
    classless = _rows_without_training_class(rows, has_split)
    skipped += classless
    classless_names = {item.path for item in classless}
    rows = [row for row in rows if row.name not in classless_names]
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        first = f"; {len(skipped)} files are skipped, first {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"{source} has {len(classes)} usable class{'es' * (not classes)}, and two are needed{first}")
    if has_split and not any(row.split == "val" for row in rows):
        raise ValueError(f"the validation part of {source} holds no image with a class")
    number = {name: index for index, name in enumerate(classes)}
    return ClassificationDataset(
        [row.path for row in rows],
        np.array([number[row.label] for row in rows], np.int64),
        classes,
        np.array([row.split == "val" for row in rows]) if has_split else None,
        tuple(skipped),
        tuple(row.name for row in rows),
        reader,
    )


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw a random stratified validation split.

    Each class has at least one image in training and, if it has two or more, in validation.

    Args:
        labels: (N,) class numbers.
        fraction: Part of each class for validation, 0 to 1.
        seed: Seed of the split.

    Returns:
        (N,) bool mask of the validation images.
    """
    rng = np.random.default_rng(seed)
    selected = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        selected[members[: min(len(members) - 1, max(1, round(fraction * len(members))))]] = True
    return selected


@dataclass(frozen=True)
class _Row:
    """An image with its class."""

    path: Path
    name: str
    """Name in reports."""
    label: str
    split: str | None


def _from_folder(root: Path, channels: bool) -> tuple[list[_Row], list[SkippedImage]]:
    files = find_images(root, channels)
    skipped = [SkippedImage(entry.name, entry.reason) for entry in files.unreadable]
    parts = [path.relative_to(root).parts for path in files.paths]
    splits = _folder_splits(parts, str(root))
    depth = 1 if splits else 0
    rows = []
    for path, own in zip(files.paths, parts, strict=True):
        split = splits.of(own[0]) if splits else None
        if splits and split is None:
            skipped.append(other_split(files.name(path), f"{splits.train}/", f"{splits.val}/"))
        elif len(own) < depth + 2:
            skipped.append(SkippedImage(files.name(path), "in no folder of a class"))
        else:
            rows.append(_Row(path, files.name(path), display_name(own[depth]), split))
    return rows, skipped


def _folder_splits(parts: Sequence[tuple[str, ...]], where: str) -> SplitNames | None:
    """Return the split folders among the folders of images; None if all folders are classes.

    Raises:
        ValueError: Folders have names of splits and not the content of splits.
    """
    folders = {own[0] for own in parts if len(own) > 1}
    nested = {own[0] for own in parts if len(own) > 2}
    # One class may be called like the training split: a vehicle beside others.
    named = {name for name in folders if is_split_name(name)}
    if len(folders) > 2 and not nested & named and {name.casefold() for name in named} == {"train"}:
        return None
    splits = find_splits(folders, where)
    if splits and not {splits.train, splits.val} <= nested:
        flat = next(name for name in (splits.train, splits.val) if name not in nested)
        raise ValueError(
            f"{where} holds {splits.train} and {splits.val}, names of splits, but {flat} holds no folders of classes; "
            "put each class into a subfolder of its own, rename the folders if they are classes, or give a CSV"
        )
    return splits


def _from_csv(source: Path) -> tuple[list[_Row], list[SkippedImage]]:
    rows: dict[str, _Row] = {}
    lines: dict[str, int] = {}
    table = list(csv_lines(source, ("path", "label")))
    splits = find_splits(
        {fields["split"] for _, fields in table if fields.get("split")}, f"the column split of {source}"
    )
    skipped = []
    for number, fields in table:
        where = f"{source}, line {number}"
        name, label, split = fields["path"], fields["label"], fields.get("split")
        if not name or "\0" in name or not label:
            raise ValueError(f"{where}: a path and a label are needed, got {name!r}, {label!r}")
        if "split" in fields and not (split and is_split_name(split)):
            raise ValueError(f"{where}: split is train, val or test, got {split!r}")
        row = _Row(source.parent / name, Path(name).as_posix(), label, splits.of(split) if splits and split else split)
        if rows.setdefault(row.name, row) != row:
            raise ValueError(f"{where}: {name} is in line {lines[row.name]} too, with other fields; keep one of them")
        lines.setdefault(row.name, number)
        if splits and row.split is None:
            skipped.append(other_split(row.name, splits.train, splits.val))
    return [row for row in rows.values() if not splits or row.split], skipped


def _rows_without_training_class(rows: Sequence[_Row], has_split: bool) -> list[SkippedImage]:
    """Return the images whose class has no training image or, if the data has no split, only one image."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.label] = counts.get(row.label, 0) + (row.split != "val")
    needed = 1 if has_split else 2
    reason = "none of its class is in train" if has_split else "the only one of its class"
    return [SkippedImage(row.name, reason) for row in rows if counts[row.label] < needed]
