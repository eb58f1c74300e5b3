"""Writer of a dataset folder. A kill at any time loses at most the current shard.

A shard is committed in one step: its maps, its Parquet file and its errors are on the disk before the journal, which is
replaced atomically, counts them. Files beyond the journal are removed when the job continues.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtsa_kit.embedding.dense_spec import DenseSpec
from gtsa_kit.embedding.folder import DENSE, ERRORS, JOURNAL, VECTORS, Journal, part_name, read_journal
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.embedding.shards import ShardFill, ShardLimits
from gtsa_kit.export.manifest import METADATA_KEY
from gtsa_kit.export.spec import EMBEDDING
from gtsa_kit.files import atomic_write, sync, write_json

if TYPE_CHECKING:
    from gtsa_kit.embedding.dense import DenseWriter


@dataclass(frozen=True)
class DatasetSpec:
    """Types and shapes of the files of a dataset folder."""

    manifest: str
    """Manifest of the model, as JSON."""
    dim: int
    """Length D of a vector."""
    dtype: str
    """Data type of the vectors, float16 or float32."""
    limits: ShardLimits
    dense: DenseSpec | None = None
    """Feature maps; None if there are none."""
    vectors: tuple[str, ...] = (EMBEDDING,)
    """Names of the outputs that are vectors, one column each."""


class DatasetWriter:
    """Writer of a dataset folder."""

    def __init__(self, out: Path, spec: DatasetSpec, first: int) -> None:
        """Begin with the input of index `first`, or continue where the journal ends."""
        self.out, self.spec = out, spec
        (out / VECTORS).mkdir(parents=True, exist_ok=True)
        self.journal = read_journal(out) or Journal(first)
        self.schema = vectors_schema(spec)
        self._fill, self._rows = ShardFill(spec.limits), list[FeatureRow]()
        self._next_index, self._errors = self.journal.next_index, self.journal.errors
        self._remove_uncommitted()
        journal = self.journal
        self.dense = _open_dense(out, spec.dense, journal) if spec.dense else None
        self._errors_file = open(out / ERRORS, "ab")  # noqa: SIM115

    @property
    def rows(self) -> int:
        """Number of rows, committed or not."""
        return self.journal.rows + len(self._rows)

    @property
    def errors(self) -> int:
        """Number of errors, committed or not."""
        return self._errors

    def add(self, result: FeatureRow | FailedImage) -> None:
        """Add the result of the next input.

        Raises:
            OSError: It can't be written; everything that is committed stays.
        """
        if result.patches is not None and not self._fill.fits(result.patches):
            self.commit()
        if isinstance(result, FailedImage):
            line = json.dumps({"path": result.path, "reason": result.reason}, ensure_ascii=False)
            self._errors_file.write(line.encode("utf-8") + b"\n")
            self._errors += 1
        else:
            self._rows.append(result)
        self._next_index += 1
        if result.patches is not None:
            self._fill.add(result.patches)
        only_errors = not self._fill.rows and self._errors - self.journal.errors >= self.spec.limits.rows
        if only_errors or not self._fill.fits(0):
            self.commit()

    def commit(self, complete: bool = False) -> None:
        """Write everything so far to the disk, and commit it in the journal."""
        journal = replace(self.journal, next_index=self._next_index, errors=self._errors, complete=complete)
        if self._rows:
            if self.dense:
                self.dense.write(self._rows)
                journal = replace(journal, patches=self.dense.patches)
            with atomic_write(self.out / VECTORS / part_name(journal.shards)) as file:
                pq.write_table(vectors_table(self._rows, self.spec, self.schema), file, compression="zstd")
            journal = replace(journal, shards=journal.shards + 1, rows=journal.rows + len(self._rows))
        self._errors_file.flush()
        sync(self._errors_file.fileno())
        journal = replace(journal, errors_bytes=self._errors_file.tell())
        write_json(self.out / JOURNAL, asdict(journal))
        self.journal, self._rows, self._fill = journal, [], ShardFill(self.spec.limits)

    def finish(self, last: int) -> None:
        """Commit the rest as complete; `last` is the index after the last input."""
        self._next_index = last
        if self.journal.shards == 0 and not self._rows:  # readers need a schema even if there are no rows
            with atomic_write(self.out / VECTORS / part_name(0)) as file:
                pq.write_table(self.schema.empty_table(), file)
        self.commit(complete=True)

    def close(self) -> None:
        """Close the files without a commit."""
        self._errors_file.close()

    def _remove_uncommitted(self) -> None:
        committed = {part_name(i) for i in range(self.journal.shards)}
        for path in (self.out / VECTORS).iterdir():
            if path.name not in committed:
                path.unlink()
        for path in (self.out / DENSE).rglob("*.partial"):  # Zarr writes to a temporary file, then renames it
            path.unlink()
        errors = self.out / ERRORS
        errors.touch()
        if errors.stat().st_size < self.journal.errors_bytes:
            raise ValueError(f"{errors} is shorter than its journal records; embed into another folder")
        os.truncate(errors, self.journal.errors_bytes)


def vectors_schema(spec: DatasetSpec) -> pa.Schema:
    """Return the columns of the vectors, with the model's manifest in the metadata under `METADATA_KEY`."""
    element = pa.float16() if spec.dtype == "float16" else pa.float32()
    fields: list[Any] = [pa.field(name, pa.string(), nullable=False) for name in ("path", "sha256", "stamp")]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in ("width", "height")]
    fields += [pa.field(name, pa.list_(element, spec.dim), nullable=False) for name in spec.vectors]
    return pa.schema(fields, metadata={METADATA_KEY: spec.manifest})


def vectors_table(rows: Sequence[FeatureRow], spec: DatasetSpec, schema: pa.Schema) -> pa.Table:
    """Return the table of one shard."""
    columns: dict[str, Any] = {
        "path": _texts([row.path for row in rows]),
        "sha256": _texts([row.sha256 for row in rows]),
        "stamp": _texts([row.stamp for row in rows]),
        "width": _numbers(np.array([row.width for row in rows], np.int32)),
        "height": _numbers(np.array([row.height for row in rows], np.int32)),
    }
    for name in spec.vectors:
        flat = np.concatenate([row.vectors[name] for row in rows]).astype(spec.dtype)
        columns[name] = pa.FixedSizeListArray.from_arrays(_numbers(flat), type=schema.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _numbers(values: np.ndarray) -> pa.Array:
    """Return a column of numbers (N,). `pa.array` would import pandas where it is installed, which takes seconds."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _texts(values: Sequence[str]) -> pa.Array:
    """Return a column of texts; see `_numbers`."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def _open_dense(out: Path, spec: DenseSpec, journal: Journal) -> "DenseWriter":
    """Open or create the feature maps, up to what the journal counts."""
    from gtsa_kit.embedding.dense import DenseWriter

    return DenseWriter(out / DENSE, spec, journal.rows, journal.patches)
