"""Tables of LanceDB: a folder, an object store or LanceDB Cloud."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gtsa_kit.embedding.push.store import (
    MODEL_KEY,
    NUMBER_COLUMNS,
    TEXT_COLUMNS,
    VECTOR_COLUMN,
    RowBatch,
)
from gtsa_kit.extras import hint_at_extra


class LanceStore:
    """Table of LanceDB. Each batch is one commit."""

    def __init__(self, where: str, table: str, model: str, dim: int) -> None:
        """Open or create a table in the database at `where`, a folder or URL."""
        with hint_at_extra("gtsa embed push --to lancedb"):
            import lancedb
        self.schema = _schema(model, dim)
        database = lancedb.connect(where)
        try:
            self.table = database.open_table(table)
        except (ValueError, FileNotFoundError):  # there is none
            self.table = database.create_table(table, schema=self.schema)
        self.title = f"the table {table}"
        kept = (self.table.schema.metadata or {}).get(MODEL_KEY.encode())
        self.kept_model = kept.decode() if kept else None

    def row_hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the `row_hash` of those ids that the table has, by id."""
        listed = ", ".join(f"'{one}'" for one in ids)  # ids are UUIDs: there is nothing to escape
        query = self.table.search().where(f"id IN ({listed})").select(["id", "row_hash"]).limit(len(ids))
        rows = query.to_arrow()
        return dict(zip(rows["id"].to_pylist(), rows["row_hash"].to_pylist(), strict=True))

    def write(self, batch: RowBatch) -> None:
        """Insert rows, in place of those with the same id."""
        columns: dict[str, Any] = {
            name: [record[name] for record in batch.records] for name in self.schema.names if name != VECTOR_COLUMN
        }
        flat = pa.array(batch.vectors.reshape(-1))
        columns[VECTOR_COLUMN] = pa.FixedSizeListArray.from_arrays(flat, batch.vectors.shape[1])
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.table(columns, schema=self.schema))

    def finish(self, changed: bool) -> None:
        """Join the small files of the batches."""
        if changed:
            self.table.optimize()

    def close(self) -> None:
        """There is nothing to close."""


def _schema(model: str, dim: int) -> pa.Schema:
    fields: list[Any] = [pa.field(name, pa.string(), nullable=False) for name in ("id", *TEXT_COLUMNS)]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in NUMBER_COLUMNS]
    fields.append(pa.field(VECTOR_COLUMN, pa.list_(pa.float32(), dim), nullable=False))
    return pa.schema(fields, metadata={MODEL_KEY: model})
