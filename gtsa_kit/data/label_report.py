"""Checks and counts of labeled data before training: what each class has, what is skipped, and what looks wrong."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from gtsa_kit.data.entries import Entry, read_entry
from gtsa_kit.data.image_files import validate_images
from gtsa_kit.data.labeled import ClassificationDataset
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.data.skipped import SkippedImage, check_missing, faults
from gtsa_kit.data.sources import FileSource
from gtsa_kit.data.split_rule import Split, SplitRule
from gtsa_kit.progress import ProgressCallback, no_progress

MAX_BAD = 0.05
"""Largest share of labeled images that may be unusable or wrong before training refuses the data."""
Unit = Literal["pixels", "images", "boxes"]
ALL_VOID = "its mask is void everywhere"


@dataclass(frozen=True)
class PartCounts:
    """Labels of the training or the validation part."""

    images: int
    """Number of images."""
    counts: tuple[int, ...]
    """Pixels or boxes of each class, or images of each class if images have one class."""
    images_with: tuple[int, ...]
    """Number of images that hold each class."""
    void: int = 0
    """Number of void pixels."""
    empty: int = 0
    """Number of images without an object."""


@dataclass(frozen=True)
class LabelReport:
    """Content of a labeled dataset, for people and for the run folder."""

    unit: Unit
    """Unit of the counts."""
    classes: tuple[str, ...]
    train: PartCounts
    val: PartCounts
    split: str
    """Origin of the validation part, in words."""
    skipped: tuple[str, ...]
    """Skipped files by reason: their number, and the first one."""
    warnings: tuple[str, ...]
    """Sentences about what looks wrong and does not stop a run."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable data."""
        return asdict(self)


class PreparedMasks(NamedTuple):
    """Masks that training can use."""

    data: SegmentationDataset
    validation: np.ndarray
    """Validation images, (N,) bool."""
    report: LabelReport


class PreparedClasses(NamedTuple):
    """Images with classes that training can use."""

    data: ClassificationDataset
    validation: np.ndarray
    """Validation images, (N,) bool."""
    report: LabelReport


def prepare_masks(data: SegmentationDataset, rule: SplitRule, max_bad: float = MAX_BAD) -> PreparedMasks:
    """Leave out masks without a class, split the others, and count their pixels.

    Args:
        data: Dataset whose reader got the same `max_bad` as `max_missing`.
        rule: Validation part of a dataset without a split.
        max_bad: Largest share of pairs that are skipped, void everywhere, or hold values that no label has.

    Raises:
        ValueError: More pairs are bad, or the training part holds fewer than two classes or a part is empty.
    """
    unknown, total = _unknown_values(data), len(data.pairs) + len(data.skipped)
    hint = "name these values in --labels, or make them void by --ignore VALUE"
    if len(unknown) > max_bad * total:
        raise ValueError(f"{len(unknown)} of {total} masks hold values that no label has, {_first(unknown)}; {hint}")
    counts = data.counts()
    empty = counts[:, :-1].sum(1) == 0
    void = [SkippedImage(pair.name, ALL_VOID) for pair, is_void in zip(data.pairs, empty, strict=True) if is_void]
    data = replace(
        data,
        pairs=[pair for pair, is_void in zip(data.pairs, empty, strict=True) if not is_void],
        skipped=(*data.skipped, *void),
    )
    if not data.pairs:
        raise ValueError("every pixel of all masks is void; check --ignore and --labels")
    check_missing(faults(data.skipped), total, "images and masks", "repair or remove them", max_bad)
    split = data.split(rule)
    pixels = counts[~empty]
    train, val = (_count_pixels(pixels[part]) for part in (~split.validation, split.validation))
    report = build_report("pixels", data.classes, (train, val), split, data.skipped)
    notes = []
    if unknown:
        notes.append(
            f"{_masks(len(unknown))} values that no label has; their pixels are void: {_first(unknown)}; {hint}"
        )
    for name, part in (("train", train), ("val", val)):
        share = part.void / (part.void + sum(part.counts))
        if share > 0.5:
            notes.append(f"{share:.0%} of the pixels of {name} are void; check --ignore and --labels")
    return PreparedMasks(data, split.validation, replace(report, warnings=(*notes, *report.warnings)))


def prepare_classes(
    data: ClassificationDataset,
    rule: SplitRule,
    max_bad: float = MAX_BAD,
    check_images: int = 10_000,
    on_progress: ProgressCallback = no_progress,
) -> PreparedClasses:
    """Decode the images once, leave out the unreadable ones, split the others, and count the images of each class.

    Args:
        data: Dataset whose reader got the same `max_bad` as `max_missing`.
        rule: Validation part of a dataset without a split; it holds inside of each class.
        max_bad: Largest share of images that are skipped or unreadable.
        check_images: Number of images to decode, evenly spaced.
        on_progress: Progress callback.

    Raises:
        ValueError: More images are bad, or the training part holds fewer than two classes or a part is empty.
    """
    checked = np.unique(np.linspace(0, len(data.paths) - 1, min(check_images, len(data.paths))).round().astype(int))
    names = data.names or [path.as_posix() for path in data.paths]
    entries = [Entry(names[i], str(data.paths[i])) for i in checked]
    read = None if data.reader.channels.is_rgb else lambda source, entry: data.reader(read_entry(source, entry))
    done = 0

    def on_checked() -> None:
        nonlocal done
        done += 1
        on_progress("reading images", done, len(entries))

    reasons = {
        entry.locator: SkippedImage(entry.name, entry.reason)
        for entry in validate_images(FileSource(data.paths[0].parent), entries, on_checked=on_checked, read=read)
    }
    kept = np.array([str(path) not in reasons for path in data.paths])
    hint = "repair or remove them, or allow more with --max-missing"
    check_missing(list(reasons.values()), len(entries), "images", hint, max_bad)
    data = data.select(kept, list(reasons.values()))
    check_missing(faults(data.skipped), len(data.paths) + len(data.skipped), "images", hint, max_bad)
    split = data.split(rule)
    parts = (data.labels[~split.validation], data.labels[split.validation])
    train, val = (_count_images(labels, len(data.classes)) for labels in parts)
    return PreparedClasses(
        data, split.validation, build_report("images", data.classes, (train, val), split, data.skipped)
    )


def describe_skipped(skipped: Sequence[SkippedImage]) -> tuple[str, ...]:
    """Return a line for each kind of reason, the most frequent first: the number of files and the first of them."""
    kinds: dict[str, list[SkippedImage]] = {}
    for item in skipped:
        kinds.setdefault(re.sub("[0-9]+", "0", item.reason), []).append(item)
    return tuple(f"{len(items)} skipped, {_first(items)}" for items in sorted(kinds.values(), key=len, reverse=True))


def build_report(
    unit: Unit,
    classes: tuple[str, ...],
    parts: tuple[PartCounts, PartCounts],
    split: Split,
    skipped: Sequence[SkippedImage],
    needed: int = 2,
) -> LabelReport:
    """Build the report; raise `ValueError` if nothing can be scored, or fewer than `needed` classes can be learned."""
    train, val = parts
    if not train.images or not val.images:
        raise ValueError(f"no usable image is in {'val' if train.images else 'train'}; add some, or see --val-split")
    learned = sum(count > 0 for count in train.counts)
    if learned < needed:
        number = "two are" if needed > 1 else "one is"
        raise ValueError(f"train holds {unit} of {learned} class{'es' * (learned != 1)}, and {number} needed")
    warnings = [f"{name} holds one image" for name, part in (("train", train), ("val", val)) if part.images == 1]
    warnings += _missing_classes(unit, classes, train.counts, val.counts)
    return LabelReport(unit, classes, train, val, split.description, describe_skipped(skipped), tuple(warnings))


def _missing_classes(unit: str, classes: Sequence[str], train: Sequence[int], val: Sequence[int]) -> list[str]:
    """Return a sentence for the classes that are not in train, one for those in neither part, one for those in val."""
    rows = list(zip(classes, train, val, strict=True))
    kinds = (
        ([f"{name} ({b:,} {unit} in val)" for name, a, b in rows if b and not a], "in train and will not be learned"),
        ([name for name, a, b in rows if not a and not b], "in train, nor in val"),
        ([name for name, a, b in rows if a and not b], "in val and will have no score"),
    )
    return [f"{_classes(names)} no {unit} {where}: {', '.join(names)}" for names, where in kinds if names]


def _masks(count: int) -> str:
    return f"{count} masks hold" if count > 1 else "1 mask holds"


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} classes have" if len(names) > 1 else "1 class has"


def _first(items: Sequence[SkippedImage]) -> str:
    return f"first {items[0].path}: {items[0].reason}"


def _unknown_values(data: SegmentationDataset) -> list[SkippedImage]:
    """Return the pairs with values that belong to no class and are not declared void, with the values."""
    result = []
    for pair in data.pairs:
        unknown = data.label_map.unknown(pair.values)
        if unknown.any():
            values = [f"#{value:06x}" if data.label_map.in_color else str(value) for value in pair.values[unknown][:5]]
            more = ", ..." * (int(unknown.sum()) > len(values))
            pixels = int(pair.value_counts[unknown].sum())
            result.append(SkippedImage(pair.name, f"{', '.join(values)}{more} in {pixels:,} pixels"))
    return result


def _count_pixels(counts: np.ndarray) -> PartCounts:
    """Return the counts of a part of (N, K + 1) pixels a mask, the last column void."""
    pixels, images = counts.sum(0).tolist(), (counts > 0).sum(0).tolist()
    return PartCounts(len(counts), tuple(pixels[:-1]), tuple(images[:-1]), pixels[-1])


def _count_images(labels: np.ndarray, classes: int) -> PartCounts:
    counts = tuple(np.bincount(labels, minlength=classes).tolist())
    return PartCounts(len(labels), counts, counts)
