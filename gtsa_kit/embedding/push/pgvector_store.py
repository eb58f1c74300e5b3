"""Tables of PostgreSQL with the extension pgvector."""

from collections.abc import Sequence
from typing import Any

from gtsa_kit.embedding.push.store import (
    NUMBER_COLUMNS,
    TEXT_COLUMNS,
    VECTOR_COLUMN,
    RowBatch,
)
from gtsa_kit.extras import hint_at_extra

COLUMNS = ("id", *TEXT_COLUMNS, *NUMBER_COLUMNS, VECTOR_COLUMN)


class PgvectorStore:
    """Table of PostgreSQL. Each batch is one transaction. The comment of the table describes the model."""

    def __init__(self, where: str, table: str, model: str, dim: int) -> None:
        """Connect to the database with the URL `where`; open or create a table, also `schema.table`."""
        with hint_at_extra("gtsa embed push --to pgvector"):
            import psycopg
            from pgvector.psycopg import register_vector
            from psycopg.sql import Identifier
        self.name = Identifier(*table.split(".", 1))
        self.connection = psycopg.connect(where, autocommit=True)
        _create_extension(self.connection)
        register_vector(self.connection)
        self._create_table(model, dim)
        kept = self.connection.execute(
            "SELECT obj_description(to_regclass(%s), 'pg_class')", (self.name.as_string(self.connection),)
        ).fetchone()
        self.title, self.kept_model = f"the table {table}", kept[0] if kept else None

    def row_hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the `row_hash` of those ids that the table has, by id."""
        from psycopg.sql import SQL

        query = SQL("SELECT id::text, row_hash FROM {} WHERE id = ANY(%s::uuid[])").format(self.name)
        return dict(self.connection.execute(query, (list(ids),)).fetchall())

    def write(self, batch: RowBatch) -> None:
        """Insert rows, in place of those with the same id."""
        from psycopg.sql import SQL, Identifier, Placeholder

        columns = [Identifier(name) for name in COLUMNS]
        new = [SQL("EXCLUDED.{}").format(column) for column in columns]
        lists = (columns, [Placeholder()] * len(columns), columns, new)
        query = SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET ({}) = ROW ({})").format(
            self.name, *(SQL(", ").join(parts) for parts in lists)
        )
        rows = [
            (*(record[name] for name in COLUMNS[:-1]), vector)
            for record, vector in zip(batch.records, batch.vectors, strict=True)
        ]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(query, rows)

    def finish(self, changed: bool) -> None:
        """There is nothing to do: each batch is committed."""

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _create_table(self, model: str, dim: int) -> None:
        """Create the table with its comment, in one transaction, unless it exists."""
        from psycopg.sql import SQL, Identifier, Literal

        columns = [SQL("{} text NOT NULL").format(Identifier(name)) for name in TEXT_COLUMNS]
        columns += [SQL("{} integer NOT NULL").format(Identifier(name)) for name in NUMBER_COLUMNS]
        columns.append(SQL("{} vector({}) NOT NULL").format(Identifier(VECTOR_COLUMN), Literal(dim)))
        with self.connection.transaction():
            name = self.name.as_string(self.connection)
            existing = self.connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
            if existing and existing[0] is not None:
                return
            self.connection.execute(
                SQL("CREATE TABLE {} (id uuid PRIMARY KEY, {})").format(self.name, SQL(", ").join(columns))
            )
            self.connection.execute(SQL("COMMENT ON TABLE {} IS {}").format(self.name, Literal(model)))


def _create_extension(connection: Any) -> None:
    """Create the extension unless the database has it, for which a user needs no rights.

    Raises:
        ValueError: The server does not have it, or the user may not create it.
    """
    import psycopg

    if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
        return
    try:
        connection.execute("CREATE EXTENSION vector")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise ValueError(
            "the PostgreSQL server has no pgvector; install it there, such as Debian's postgresql-17-pgvector"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ValueError(
            "the database has no extension vector, and the user may not create it; have an administrator run "
            "CREATE EXTENSION vector"
        ) from error
