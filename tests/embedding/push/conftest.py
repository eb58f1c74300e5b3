from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from helpers.postgres import running_postgres
from helpers.vector_stores import Table

from gtsa_kit.embedding.push import STORES


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a database with pgvector."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("pgvector", reason="pgvector is not installed")
    with running_postgres() as url:
        yield url


@pytest.fixture(params=STORES)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    """A table that does not exist yet, in each kind of store."""
    to = request.param
    if to == "pgvector":
        return Table(to, request.getfixturevalue("postgres"), f"t{uuid4().hex[:12]}")
    pytest.importorskip("qdrant_client" if to == "qdrant" else to, reason=f"the extra {to} is not installed")
    return Table(to, str(tmp_path / f"store.{to}"))
