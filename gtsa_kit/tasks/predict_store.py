"""Writer of a folder of predictions. A kill at any time loses at most the images since the last commit.

Masks and overlays are files of their own, written before the rows that name them. The rows are appended to tables, and
a commit records the lengths of these in the journal; what lies beyond is cut off when the job continues.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from gtsa_kit.data.moved_images import spread_sample
from gtsa_kit.embedding.folder import ERRORS, JOURNAL
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.files import atomic_write, sync, write_json

TABLE, RLE, RESULTS, LABELS = "predictions.csv", "rle.jsonl", "predictions.json", "labels.json"
MASKS: Final = "masks"
OVERLAYS: Final = "overlays"


@dataclass(frozen=True)
class PredictedRow:
    """Row of an image in the tables, and its files until they are written."""

    columns: tuple[object, ...]
    """Values of the columns of predictions.csv."""
    objects: tuple[dict[str, Any], ...] = ()
    """Entries of rle.jsonl, or of predictions.json."""
    files: tuple[tuple[str, bytes], ...] = ()
    """Path below the folder, and content."""


@dataclass(frozen=True)
class PredictJournal:
    """Counts of the committed results."""

    next_index: int = 0
    """Index of the first image that is not committed."""
    rows: int = 0
    errors: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    """Length of each table in bytes."""
    complete: bool = False
    """All images are committed."""


def write_files(out: Path, result: PredictedRow | FailedImage) -> PredictedRow | FailedImage:
    """Write the files of a result into the folder `out`, and return the result without them.

    Raises:
        OSError: A file can't be written.
    """
    if isinstance(result, FailedImage):
        return result
    for name, content in result.files:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    return replace(result, files=())


def sample_rows(out: Path) -> dict[str, str]:
    """Return the SHA-256 of some images that are committed rows of the folder `out`, by name."""
    length = _read_journal(out).lengths.get(TABLE, 0)
    if not length:
        return {}
    with open(out / TABLE, "rb") as file:
        text = file.read(length).decode("utf-8")
    return dict(spread_sample([(row["path"], row["sha256"]) for row in csv.DictReader(io.StringIO(text))]))


class PredictionWriter:
    """Writer of the tables of a folder of predictions."""

    def __init__(self, out: Path, header: Sequence[str], objects: str | None = None) -> None:
        """Begin, or continue where the journal ends.

        Args:
            out: The folder.
            header: Columns of predictions.csv.
            objects: Name of the file of the rows' objects, `RLE` or `RESULTS`; None if they have none.

        Raises:
            ValueError: A table is shorter than its journal records.
        """
        self.out, self.journal = out, _read_journal(out)
        names = (TABLE, ERRORS, *([objects] if objects else []))
        self._files = {name: _open_table(out / name, self.journal.lengths.get(name, 0)) for name in names}
        if not self.journal.lengths:
            self._files[TABLE].write(_csv_line(header))
        self._counts = self.journal

    @property
    def rows(self) -> int:
        """Images with a prediction, committed or not."""
        return self._counts.rows

    @property
    def errors(self) -> int:
        """Images without one, committed or not."""
        return self._counts.errors

    def add(self, result: PredictedRow | FailedImage) -> None:
        """Add the result of the next image."""
        counts = self._counts
        if isinstance(result, FailedImage):
            self._files[ERRORS].write(_json_line({"path": result.path, "reason": result.reason}))
            self._counts = replace(counts, next_index=counts.next_index + 1, errors=counts.errors + 1)
            return
        self._files[TABLE].write(_csv_line(result.columns))
        for entry in result.objects:
            if RLE in self._files:
                self._files[RLE].write(_json_line(entry))
            else:
                self._write_result(entry)
        self._counts = replace(counts, next_index=counts.next_index + 1, rows=counts.rows + 1)

    def commit(self, complete: bool = False) -> None:
        """Write everything so far to the disk, and commit it in the journal."""
        lengths = {}
        if complete and RESULTS in self._files:
            file = self._files[RESULTS]
            file.write(b"\n]\n" if file.tell() else b"[]\n")
        for name, file in self._files.items():
            file.flush()
            sync(file.fileno())
            lengths[name] = file.tell()
        self.journal = self._counts = replace(self._counts, lengths=lengths, complete=complete)
        write_json(self.out / JOURNAL, asdict(self.journal))

    def _write_result(self, entry: dict[str, Any]) -> None:
        """Add an element to the list in predictions.json, which the commit of the last image closes."""
        file = self._files[RESULTS]
        file.write((b",\n" if file.tell() else b"[\n") + _json_line(entry)[:-1])

    def close(self) -> None:
        """Close the files without a commit."""
        for file in self._files.values():
            file.close()


def _read_journal(out: Path) -> PredictJournal:
    path = out / JOURNAL
    return PredictJournal(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else PredictJournal()


def _open_table(path: Path, length: int) -> BinaryIO:
    """Open a table to append to, cut off at its committed length."""
    path.touch()
    if path.stat().st_size < length:
        raise ValueError(f"{path} is shorter than its journal records; predict into another folder")
    os.truncate(path, length)
    return open(path, "ab")


def _json_line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8") + b"\n"


def _csv_line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8")
