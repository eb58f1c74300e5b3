"""Rows of a dataset folder as stores take them: stable ids, hashes that change with the row, vectors of length 1."""

import uuid
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from gtsa_kit.embedding.browse.vectors import ImageRow, VectorTable
from gtsa_kit.embedding.push.store import Record, RowBatch

BATCH_BYTES = 2 << 20
"""Size of a batch of float32 vectors. Servers limit the size of a request."""
MAX_BATCH_ROWS = 1024
"""Maximum rows of a batch."""

_NAMESPACE = uuid.UUID("5a1d8c0e-6a53-5b0e-9d1b-0f6c3b7f2a41")


def read_rows(data: VectorTable, source: str) -> Iterator[tuple[RowBatch, list[ImageRow]]]:
    """Yield all rows in batches, each with the rows that have no direction, which no store can find.

    Args:
        data: The dataset.
        source: Name of the images' source, which is a part of every id.
    """
    rows_per_batch = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // (4 * data.dim)))
    previous: str | None = None
    repeats = 0
    for block, rows in data.blocks_with_rows(rows_per_batch):
        records: list[Record] = []
        for row, vector in zip(rows, block.vectors, strict=True):
            # Rows of one path, such as members of a tar, are side by side: a dataset is in the order of the paths.
            repeats = repeats + 1 if row.path == previous else 0
            previous = row.path
            records.append(make_record(row, vector, source, repeats))
        valid = np.flatnonzero(block.valid).tolist()
        yield RowBatch(records, block.unit).take(valid), [rows[i] for i in np.flatnonzero(~block.valid).tolist()]


def make_record(row: ImageRow, vector: np.ndarray, source: str, repeats: int = 0) -> Record:
    """Return the columns of a row.

    Args:
        row: The row of the dataset.
        vector: Vector (D,), float32, as it is stored: its bits do not depend on the batch.
        source: Name of the images' source.
        repeats: Number of earlier rows with the same path.
    """
    fields: dict[str, str | int] = {
        "source": source,
        "path": row.path,
        "sha256": row.sha256,
        "stamp": row.stamp,
        "width": row.width,
        "height": row.height,
    }
    content = blake2b("\0".join(map(str, fields.values())).encode(), digest_size=16)
    content.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    key = "\0".join((source, row.path, *([str(repeats)] if repeats else [])))
    return {"id": str(uuid.uuid5(_NAMESPACE, key)), **fields, "row_hash": content.hexdigest()}
