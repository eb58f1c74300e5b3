"""Files of a dataset folder: their names and the journal."""

import json
from dataclasses import dataclass
from pathlib import Path

VECTORS, DENSE, ERRORS = "vectors", "dense.zarr", "errors.jsonl"
JOURNAL, JOB, INPUT_INDEX = "journal.json", "job.json", "input_index.sqlite"


@dataclass(frozen=True)
class Journal:
    """Counts of the committed results."""

    next_index: int
    """Index of the first input that is not committed."""
    shards: int = 0
    rows: int = 0
    patches: int = 0
    """Length of the ragged arrays, gaps between shards included."""
    errors: int = 0
    """Lines of errors.jsonl."""
    errors_bytes: int = 0
    """Length of errors.jsonl in bytes."""
    complete: bool = False
    """All inputs are committed."""


def read_journal(out: Path) -> Journal | None:
    """Return the journal, or None if nothing has been committed."""
    path = out / JOURNAL
    return Journal(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def part_name(index: int) -> str:
    """Return the file name of a shard's vectors; names sort in the order of the shards."""
    return f"part-{index:05d}.parquet"


def vector_parts(folder: Path) -> list[Path]:
    """Return the Parquet files of a dataset folder, in the order of the shards."""
    return sorted((folder / VECTORS).glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))


def check_out(out: Path, resume: bool) -> None:
    """Raise `ValueError` if `out` holds files that a new job would overwrite or mix with its own."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a folder")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if JOB in names:
        if not resume:
            raise ValueError(f"{out} holds a job already; continue it with --resume, or choose another folder")
        return
    if others := sorted(name for name in names if name != INPUT_INDEX and not name.startswith(".")):
        raise ValueError(f"{out} is not empty ({others[0]}); choose a new folder")
