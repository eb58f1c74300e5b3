"""Tables of vector stores as tests read them: through the client of the store, without gtsa-kit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


@dataclass
class Table:
    """A table of a store. `arguments` are those of `push` after the dataset."""

    to: str
    where: str
    name: str = "images"

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Kind, address and name of the table."""
        return self.to, self.where, self.name

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, each with its vector as an array, in the order of their paths."""
        rows = _ROWS[self.to](self)
        return sorted(rows, key=lambda row: (row["source"], row["path"], row["sha256"]))

    def search(self, query: np.ndarray, top: int) -> list[str]:
        """Return the paths of the nearest rows by cosine, best first."""
        return _SEARCH[self.to](self, query, top)

    def make_foreign(self, dim: int) -> None:
        """Create the table as another program would."""
        _FOREIGN[self.to](self, dim)


def _lance(table: Table) -> Any:
    import lancedb

    return lancedb.connect(table.where).open_table(table.name)


def _lance_rows(table: Table) -> list[dict[str, Any]]:
    rows = _lance(table).to_arrow().to_pylist()
    return [{**row, "embedding": np.array(row["embedding"], np.float32)} for row in rows]


def _lance_search(table: Table, query: np.ndarray, top: int) -> list[str]:
    hits = _lance(table).search(query).distance_type("cosine").limit(top).select(["path", "_distance"]).to_list()
    return [hit["path"] for hit in hits]


def _lance_foreign(table: Table, dim: int) -> None:
    import lancedb

    lancedb.connect(table.where).create_table(table.name, data=[{"id": "1", "embedding": [1.0] * dim}])


@dataclass
class _Client:
    """Client of Qdrant, which has its folder open for one process alone."""

    table: Table
    client: Any = field(init=False)

    def __enter__(self) -> Any:
        from qdrant_client import QdrantClient

        self.client = QdrantClient(path=self.table.where)
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()


def _qdrant_rows(table: Table) -> list[dict[str, Any]]:
    with _Client(table) as client:
        points, _ = client.scroll(table.name, limit=100_000, with_vectors=True)
    return [{"id": p.id, **p.payload, "embedding": np.array(p.vector, np.float32)} for p in points]


def _qdrant_search(table: Table, query: np.ndarray, top: int) -> list[str]:
    with _Client(table) as client:
        return [hit.payload["path"] for hit in client.query_points(table.name, query=query.tolist(), limit=top).points]


def _qdrant_foreign(table: Table, dim: int) -> None:
    from qdrant_client import models

    with _Client(table) as client:
        client.create_collection(table.name, models.VectorParams(size=dim, distance=models.Distance.COSINE))


def _query(table: Table, query: str, *values: Any) -> list[dict[str, Any]]:
    import psycopg
    from pgvector.psycopg import register_vector
    from psycopg.rows import dict_row

    with psycopg.connect(table.where, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        cursor = connection.cursor(row_factory=dict_row).execute(query, values)
        return cursor.fetchall() if cursor.description else []


def _postgres_rows(table: Table) -> list[dict[str, Any]]:
    rows = _query(table, f'SELECT * FROM "{table.name}"')
    return [{**row, "id": str(row["id"]), "embedding": row["embedding"].to_numpy()} for row in rows]


def _postgres_search(table: Table, query: np.ndarray, top: int) -> list[str]:
    rows = _query(table, f'SELECT path FROM "{table.name}" ORDER BY embedding <=> %s LIMIT %s', query, top)
    return [row["path"] for row in rows]


def _postgres_foreign(table: Table, dim: int) -> None:
    _query(table, f'CREATE TABLE "{table.name}" (id uuid PRIMARY KEY, embedding vector({dim}))')


def _faiss(table: Table) -> tuple[Any, list[dict[str, Any]]]:
    import faiss

    return faiss.read_index(table.where), pq.read_table(f"{table.where}.parquet").to_pylist()


def _faiss_rows(table: Table) -> list[dict[str, Any]]:
    index, rows = _faiss(table)
    assert index.ntotal == len(rows)
    return [{**row, "embedding": index.reconstruct(number)} for number, row in enumerate(rows)]


def _faiss_search(table: Table, query: np.ndarray, top: int) -> list[str]:
    index, rows = _faiss(table)
    return [rows[number]["path"] for number in index.search(query[None], top)[1][0].tolist()]


def _faiss_foreign(table: Table, dim: int) -> None:
    import faiss

    faiss.write_index(faiss.IndexFlatIP(dim), table.where)
    Path(f"{table.where}.parquet").unlink(missing_ok=True)


Rows = Callable[[Table], list[dict[str, Any]]]
_ROWS: dict[str, Rows] = {
    "lancedb": _lance_rows,
    "qdrant": _qdrant_rows,
    "pgvector": _postgres_rows,
    "faiss": _faiss_rows,
}
_SEARCH = {
    "lancedb": _lance_search,
    "qdrant": _qdrant_search,
    "pgvector": _postgres_search,
    "faiss": _faiss_search,
}
_FOREIGN = {
    "lancedb": _lance_foreign,
    "qdrant": _qdrant_foreign,
    "pgvector": _postgres_foreign,
    "faiss": _faiss_foreign,
}
