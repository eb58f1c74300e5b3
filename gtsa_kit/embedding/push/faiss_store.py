"""Index files of faiss, each with a Parquet file of the same rows beside it.

The ids of the index are the row numbers of the Parquet file. Both files are replaced when all rows are there: the
Parquet file first, which holds every row of the old index under its old number. It names the digest of the index it
belongs to, so that a kill between the two is noticed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtsa_kit.embedding.push.store import MODEL_KEY, NUMBER_COLUMNS, TEXT_COLUMNS, RowBatch
from gtsa_kit.extras import hint_at_extra
from gtsa_kit.files import atomic_write, sha256_of

DIGEST_KEY = "index_sha256"


class FaissStore:
    """Flat index of inner products, which are cosines here. It is held in memory, and so are the columns."""

    def __init__(self, where: str, table: str, model: str, dim: int) -> None:
        """Open the index file `where`, or begin a new one; `table` plays no part."""
        with hint_at_extra("gtsa embed push --to faiss"):
            import faiss
        self.path, self.model = Path(where), model
        self.kept_model: str | None = model
        self.title = str(self.path)
        self.rows_path = rows_file(self.path)
        if self.path.exists():
            self.index, self.old = self._read()
        else:
            self.index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
            self.old = _schema().empty_table()
        self.numbers = {one: number for number, one in enumerate(self.old["id"].to_pylist())}
        self.hashes: list[str] = self.old["row_hash"].to_pylist()
        self.written: list[pa.Table] = []
        self.order = list(range(len(self.old)))
        """Position of each row in the old rows and the written ones, one after the other."""

    def row_hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the `row_hash` of those ids that the index has, by id."""
        return {one: self.hashes[self.numbers[one]] for one in ids if one in self.numbers}

    def write(self, batch: RowBatch) -> None:
        """Insert rows, in place of those with the same id."""
        if before := [self.numbers[one] for one in batch.ids if one in self.numbers]:
            self.index.remove_ids(np.array(before, dtype=np.int64))
        first = len(self.old) + sum(map(len, self.written))
        for position, (one, record) in enumerate(zip(batch.ids, batch.records, strict=True), first):
            number = self.numbers.setdefault(one, len(self.numbers))
            if number == len(self.order):
                self.order.append(position)
                self.hashes.append("")
            self.order[number], self.hashes[number] = position, str(record["row_hash"])
        numbers = np.array([self.numbers[one] for one in batch.ids], dtype=np.int64)
        self.index.add_with_ids(np.ascontiguousarray(batch.vectors), numbers)
        self.written.append(pa.Table.from_pylist(list(batch.records), schema=_schema()))

    def finish(self, changed: bool) -> None:
        """Replace both files, if a row has changed."""
        if not changed:
            return
        import faiss

        self.path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with atomic_write(self.path) as file:

            def write(data: bytes) -> int:
                digest.update(data)
                return file.write(data)

            writer = faiss.PyCallbackIOWriter(write)  # type: ignore[attr-defined, unused-ignore]
            faiss.write_index(self.index, writer)
            rows = pa.concat_tables([self.old, *self.written]).take(pa.array(self.order))
            metadata = {MODEL_KEY: self.model, DIGEST_KEY: digest.hexdigest()}
            with atomic_write(self.rows_path) as rows_out:
                pq.write_table(rows.replace_schema_metadata(metadata), rows_out, compression="zstd")

    def close(self) -> None:
        """There is nothing to close."""

    def _read(self) -> tuple[Any, pa.Table]:
        """Return the index and the rows; without hashes if the rows are of a later push, which did not end."""
        import faiss

        if not self.rows_path.exists():
            raise ValueError(f"{self.path} exists without {self.rows_path.name}; choose another file")
        rows = pq.read_table(self.rows_path)
        metadata = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
        self.kept_model = metadata.get(MODEL_KEY)
        if metadata.get(DIGEST_KEY) != sha256_of(self.path):
            unknown = pa.array([""] * len(rows), pa.string())
            rows = rows.set_column(rows.schema.get_field_index("row_hash"), _schema().field("row_hash"), unknown)
        return faiss.read_index(str(self.path)), rows.cast(_schema())


def rows_file(index: Path) -> Path:
    """Return the path of the Parquet file beside an index file."""
    return index.with_name(index.name + ".parquet")


def _schema() -> pa.Schema:
    fields: list[Any] = [pa.field(name, pa.string(), nullable=False) for name in ("id", *TEXT_COLUMNS)]
    return pa.schema([*fields, *(pa.field(name, pa.int32(), nullable=False) for name in NUMBER_COLUMNS)])
