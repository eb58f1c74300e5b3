"""Checks and counts of images with objects before training."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gtsa_kit.data.instances import InstanceDataset
from gtsa_kit.data.label_report import MAX_BAD, LabelReport, PartCounts, build_report
from gtsa_kit.data.split_rule import SplitRule


class PreparedInstances(NamedTuple):
    """Images with objects that training can use."""

    data: InstanceDataset
    validation: np.ndarray
    """Validation images, (N,) bool."""
    report: LabelReport


def prepare_instances(data: InstanceDataset, rule: SplitRule, max_bad: float = MAX_BAD) -> PreparedInstances:
    """Split the images, and count their objects; images without an object stay, as background.

    Args:
        data: Dataset whose reader got the same `max_bad` as `max_missing`.
        rule: Validation part of a dataset without a split.
        max_bad: Largest share of images, and of objects, that are skipped.

    Raises:
        ValueError: More are bad, a part is empty, or a part holds no objects.
    """
    data.check(max_bad)
    split = data.split(rule)
    counts = data.counts()
    parts = _count(counts[~split.validation]), _count(counts[split.validation])
    skipped = [*data.skipped, *data.skipped_objects]
    report = build_report("boxes", data.classes, parts, split, skipped, needed=1)
    if not sum(report.val.counts):
        raise ValueError("val holds no boxes, so nothing can be scored; add labeled images, or see --val-split")
    notes = list(data.notes)
    for name, part in (("train", report.train), ("val", report.val)):
        if part.empty:
            notes.append(f"{part.empty:,} of {part.images:,} images of {name} hold no object; they are background")
    report = replace(report, warnings=(*notes, *report.warnings))
    return PreparedInstances(data, split.validation, report)


def _count(counts: np.ndarray) -> PartCounts:
    """Return the counts of a part of (N, K) objects an image."""
    boxes, images = counts.sum(0).tolist(), (counts > 0).sum(0).tolist()
    return PartCounts(len(counts), tuple(boxes), tuple(images), empty=int((counts.sum(1) == 0).sum()))
