"""A dataset folder, written so that a kill at any time costs at most the shard at hand.

A shard is committed in one step: its maps, its Parquet file and its errors are on the disk before the journal, replaced
as a whole, says so. Whatever lies beyond the journal is taken away when the job goes on.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtsa_kit.embedding.dense import DenseSpec, DenseStore
from gtsa_kit.embedding.rows import Failure, Row, ShardFill, ShardRule
from gtsa_kit.files import atomic_write, write_json

VECTORS, DENSE, ERRORS, JOURNAL, JOB = "vectors", "dense.zarr", "errors.jsonl", "journal.json", "job.json"
METADATA_KEY = "gtsa_kit"


@dataclass(frozen=True)
class Journal:
    """What is committed."""

    place: int
    """The first of the listing that is not."""
    shards: int = 0
    rows: int = 0
    cells: int = 0
    errors: int = 0
    errors_bytes: int = 0
    complete: bool = False


@dataclass(frozen=True)
class StoreSpec:
    """What the files are like."""

    manifest: str
    """JSON."""
    dim: int
    dtype: str
    """Of the vectors."""
    digest: bool
    rule: ShardRule
    dense: DenseSpec | None = None


class Store:
    """A dataset folder, open for writing."""

    def __init__(self, out: Path, spec: StoreSpec, first: int) -> None:
        """Begin at the place `first` of the listing, or go on where the journal ends."""
        self.out, self.spec = out, spec
        (out / VECTORS).mkdir(parents=True, exist_ok=True)
        self.journal = read_journal(out) or Journal(first)
        self.schema = vectors_schema(spec)
        self._fill, self._rows = ShardFill(spec.rule), list[Row]()
        self._place, self._errors = self.journal.place, self.journal.errors
        self._forget_what_is_not_committed()
        journal = self.journal
        self.dense = DenseStore(out / DENSE, spec.dense, journal.rows, journal.cells) if spec.dense else None
        self._log = open(out / ERRORS, "ab")  # noqa: SIM115

    @property
    def rows(self) -> int:
        """Committed or at hand."""
        return self.journal.rows + len(self._rows)

    @property
    def errors(self) -> int:
        """Lines in the errors file."""
        return self._errors

    def add(self, result: Row | Failure) -> None:
        """One image; they come in the order of the listing.

        Raises:
            OSError: It can't be written; what was committed stays.
        """
        if isinstance(result, Failure):
            line = json.dumps({"path": result.name, "reason": result.reason}, ensure_ascii=False)
            self._log.write(line.encode("utf-8") + b"\n")
            self._errors += 1
            self._place = result.place + 1
            if not self._rows and self._errors - self.journal.errors >= self.spec.rule.rows:
                self.commit()
            return
        cells = cells_of(result)
        if not self._fill.takes(cells):
            self.commit()
        self._fill.add(cells)
        self._rows.append(result)
        self._place = result.place + 1
        if not self._fill.takes(0):
            self.commit()

    def commit(self, complete: bool = False) -> None:
        """Make everything so far last."""
        journal = replace(self.journal, place=self._place, errors=self._errors, complete=complete)
        if self._rows:
            if self.dense:
                self.dense.write(self._rows)
                journal = replace(journal, cells=self.dense.cells)
            with atomic_write(self.out / VECTORS / part_name(journal.shards)) as file:
                pq.write_table(vectors_table(self._rows, self.spec, self.schema), file, compression="zstd")
            journal = replace(journal, shards=journal.shards + 1, rows=journal.rows + len(self._rows))
        self._log.flush()
        os.fsync(self._log.fileno())
        journal = replace(journal, errors_bytes=self._log.tell())
        write_json(self.out / JOURNAL, asdict(journal))
        self.journal, self._rows, self._fill = journal, [], ShardFill(self.spec.rule)

    def finish(self, last: int) -> None:
        """The listing is at its end, `last`."""
        self._place = last
        if self.journal.shards == 0 and not self._rows:  # readers want a schema even where there are no rows
            with atomic_write(self.out / VECTORS / part_name(0)) as file:
                pq.write_table(self.schema.empty_table(), file)
        self.commit(complete=True)

    def close(self) -> None:
        """Without a commit."""
        self._log.close()

    def _forget_what_is_not_committed(self) -> None:
        known = {part_name(i) for i in range(self.journal.shards)}
        for path in (self.out / VECTORS).iterdir():
            if path.name not in known:
                path.unlink()
        for path in (self.out / DENSE).rglob("*.partial"):  # Zarr writes beside, then renames
            path.unlink()
        errors = self.out / ERRORS
        errors.touch()
        if errors.stat().st_size < self.journal.errors_bytes:
            raise ValueError(f"{errors} is shorter than the journal says; embed into another folder")
        os.truncate(errors, self.journal.errors_bytes)


def read_journal(out: Path) -> Journal | None:
    """None where nothing was committed."""
    path = out / JOURNAL
    return Journal(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def part_name(index: int) -> str:
    """Sorts as it counts."""
    return f"part-{index:05d}.parquet"


def cells_of(row: Row) -> int:
    """Of its maps; 0 without."""
    return int(np.prod(next(iter(row.maps.values())).shape[1:])) if row.maps else 0


def vectors_schema(spec: StoreSpec) -> pa.Schema:
    """Columns, with the model's manifest in the metadata under `gtsa_kit`."""
    element = pa.float16() if spec.dtype == "float16" else pa.float32()
    fields: list[Any] = [pa.field("path", pa.string(), nullable=False)]
    fields += [pa.field("sha256", pa.string(), nullable=False)] if spec.digest else []
    fields += [pa.field(name, pa.int32(), nullable=False) for name in ("width", "height")]
    fields += [pa.field("embedding", pa.list_(element, spec.dim), nullable=False)]
    return pa.schema(fields, metadata={METADATA_KEY: spec.manifest})


def vectors_table(rows: Sequence[Row], spec: StoreSpec, schema: pa.Schema) -> pa.Table:
    """One shard."""
    flat = np.concatenate([row.embedding for row in rows]).astype(spec.dtype)
    columns: dict[str, Any] = {
        "path": pa.array([row.name for row in rows], pa.string()),
        "sha256": pa.array([row.sha256 for row in rows], pa.string()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.field("embedding").type),
    }
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
