"""Vectors of a dataset folder to stores that search them: LanceDB, Qdrant, PostgreSQL with pgvector, faiss."""

from typing import Final, Literal, get_args

StoreKind = Literal["lancedb", "qdrant", "pgvector", "faiss"]
STORES: Final = get_args(StoreKind)
