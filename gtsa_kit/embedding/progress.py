"""Progress and result of a job that works through images and commits what it has done."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobProgress:
    """Numbers of processed images, of all images and of errors."""

    done: int
    total: int
    errors: int


@dataclass(frozen=True)
class JobSummary:
    """Result of a job."""

    out: Path
    rows: int
    errors: int
    total: int
    """Images of the job."""
    processed: int
    """Images that this call processed; the others were committed before."""


class UnreadableFileError(RuntimeError):
    """Raised at the first unreadable image if the options allow none."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}; continue without it with --resume --on-error skip")
