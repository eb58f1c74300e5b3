"""Vectors of a dataset folder to stores that search them: LanceDB, Qdrant, PostgreSQL with pgvector, faiss."""
