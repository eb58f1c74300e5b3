"""Collections of Qdrant: a server, or a folder that Qdrant's client reads by itself."""

import os
from collections.abc import Sequence

from gtsa_kit.embedding.push.store import MODEL_KEY, RowBatch
from gtsa_kit.extras import hint_at_extra

TIMEOUT_SECONDS = 60
API_KEY = "QDRANT_API_KEY"
"""Environment variable with the key of a server."""


class QdrantStore:
    """Collection of Qdrant. A point is written as a whole, or not at all."""

    def __init__(self, where: str, table: str, model: str, dim: int) -> None:
        """Open or create the collection `table` at `where`, a folder or the URL of a server."""
        with hint_at_extra("gtsa embed push --to qdrant"):
            from qdrant_client import QdrantClient, models
        if "://" in where:
            key = os.environ.get(API_KEY)
            self.client = QdrantClient(url=where, api_key=key, timeout=TIMEOUT_SECONDS, check_compatibility=False)
        else:
            self.client = QdrantClient(path=where)
        self.table, self.title = table, f"the collection {table}"
        if not self.client.collection_exists(table):
            vectors = models.VectorParams(size=dim, distance=models.Distance.COSINE)
            self.client.create_collection(table, vectors_config=vectors, metadata={MODEL_KEY: model})
        self.kept_model = (self.client.get_collection(table).config.metadata or {}).get(MODEL_KEY)

    def row_hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the `row_hash` of those ids that the collection has, by id."""
        points = self.client.retrieve(self.table, list(ids), with_payload=["row_hash"], with_vectors=False)
        return {str(point.id): (point.payload or {}).get("row_hash", "") for point in points}

    def write(self, batch: RowBatch) -> None:
        """Insert points, in place of those with the same id."""
        from qdrant_client import models

        payloads = [{name: value for name, value in record.items() if name != "id"} for record in batch.records]
        points = models.Batch(ids=list(batch.ids), vectors=batch.vectors.tolist(), payloads=payloads)
        self.client.upsert(self.table, points, wait=True)

    def finish(self, changed: bool) -> None:
        """There is nothing to do: the server builds its index by itself."""

    def close(self) -> None:
        """Close the connection, or the folder, which is open for one process alone."""
        self.client.close()
