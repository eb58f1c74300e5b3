"""Hints about the images that a job could not use, after its result."""

import re
from collections import Counter
from pathlib import Path

from gtsa_kit.data.channels.other import describe_reduced
from gtsa_kit.data.sources import open_source
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.channel_images import MODEL_TAKES

_LARGE = re.compile("(megapixels|MB), above the limit of")


def embedding_hints(errors: Path) -> list[str]:
    """Return what can be done about images of other channels than the model takes, and about those that are too large.

    Args:
        errors: The errors.jsonl of the job.
    """
    other, large = Counter[str](), 0
    for row in read_json_lines(errors):
        has, separator, _ = str(row["reason"]).partition(f", {MODEL_TAKES} ")
        other[has] += bool(separator)
        large += bool(_LARGE.search(str(row["reason"])))
    hints = []
    if count := other.total():
        kind = other.most_common(1)[0][0]
        hints.append(
            f"{count} {_images(count)} other channels than the model takes, most of them {kind}; gtsa train --channels "
            "auto trains a model for them"
        )
    if large:
        hints.append(
            f"{large} {_images(large)} more pixels or bytes than --max-megapixels allows; embed into another folder "
            "with a higher one, which takes memory, or cut scenes into tiles first"
        )
    return hints


def _images(count: int) -> str:
    return "image has" if count == 1 else "images have"


def reduced_note(where: str) -> str:
    """Return a note about images of a source that a model of RGB reads a part of; "" if there are none."""
    if "://" in where:
        return ""
    try:
        source = open_source(where)
    except ValueError:  # the images of a job that is resumed may have moved
        return ""
    return describe_reduced(source, (entry for entry in source.entries() if not entry.reason))
