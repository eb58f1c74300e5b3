"""Parquet and JSON files of a dataset folder, with damage named as such."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_batches(part: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield columns of a part in batches of at most `rows` rows."""
    with _damage_as_value_error(part), pq.ParquetFile(part, pre_buffer=False) as file:
        yield from file.iter_batches(rows, columns=columns, use_threads=False)


def read_footer(part: Path) -> pq.FileMetaData:
    """Return the row count and schema of a part; raise `ValueError` if it is damaged."""
    with _damage_as_value_error(part), pq.ParquetFile(part) as file:
        return file.metadata


@contextmanager
def _damage_as_value_error(part: Path) -> Iterator[None]:
    """Raise errors of the Parquet reader as `ValueError`; errors of the operating system pass."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{part} is damaged: {reason}; remove it and run gtsa embed again with --resume") from error


def check_schema(part: Path, schema: pa.Schema) -> int:
    """Return the length of the vectors; raise `ValueError` if columns are missing or of another type."""
    missing = {"path", "sha256", "stamp", "width", "height", "embedding"} - set(schema.names)
    if missing:
        raise ValueError(f"{part} has no column {', '.join(sorted(missing))}; embed the images again with gtsa embed")
    column_type = schema.field("embedding").type
    if not pa.types.is_fixed_size_list(column_type) or not pa.types.is_floating(column_type.value_type):
        raise ValueError(f"the column embedding of {part} is {column_type}, not a fixed-size list of floats")
    return int(column_type.list_size)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} if it is missing; raise `ValueError` if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}; run gtsa embed again with --resume") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is not a JSON object; run gtsa embed again with --resume")
    return content
