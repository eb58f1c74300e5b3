"""Files of a labeled dataset that are not used, and the limit of their share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_MISSING = 0.2
"""Largest share of images that are missing, unreadable or without a partner; above it a dataset is refused."""


_OTHER_SPLIT = "in neither "


@dataclass(frozen=True)
class SkippedImage:
    """A file that is not used, with the reason."""

    path: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return the entry as JSON-serializable data."""
        return {"path": self.path, "reason": self.reason}


def other_split(name: str, train: str, val: str) -> SkippedImage:
    """Return the entry of a file that is in neither split, such as the test split beside a validation split."""
    return SkippedImage(name, f"{_OTHER_SPLIT}{train} nor {val}")


def faults(skipped: Sequence[SkippedImage]) -> list[SkippedImage]:
    """Return the files that are skipped for a fault: all but those of another split."""
    return [item for item in skipped if not item.reason.startswith(_OTHER_SPLIT)]


def skipped_settings(skipped: Sequence[SkippedImage]) -> dict[str, Any]:
    """Return the skipped files for the settings of a report."""
    return {"skipped": [item.to_dict() for item in skipped]}


def check_missing(
    missing: Sequence[SkippedImage], total: int, what: str, hint: str, limit: float = MAX_MISSING
) -> None:
    """Raise `ValueError` if more than the share `limit` of `total` files is missing or can't be used.

    Args:
        missing: These files.
        total: Number of all files.
        what: The files in words.
        hint: Probable cause.
        limit: Largest share, 0 to 1.
    """
    if len(missing) > limit * total:
        raise ValueError(
            f"{len(missing)} of {total} {what} can't be used, more than {limit:.0%}, first {missing[0].path}: "
            f"{missing[0].reason}; {hint}"
        )
