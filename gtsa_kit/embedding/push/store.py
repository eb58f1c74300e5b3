"""Protocol of the stores, the rows that they take, and the model that a table belongs to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gtsa_kit.embedding.browse.vectors import VectorTable

MODEL_KEY = "gtsa_kit"
"""Key of a table's metadata that holds the model of its vectors."""

TEXT_COLUMNS = ("source", "path", "sha256", "stamp", "row_hash")
NUMBER_COLUMNS = ("width", "height")
VECTOR_COLUMN = "embedding"

Record = Mapping[str, str | int]
"""Columns of a row without its vector: `id`, `TEXT_COLUMNS` and `NUMBER_COLUMNS`."""


@dataclass(frozen=True)
class RowBatch:
    """Rows for a store."""

    records: Sequence[Record]
    vectors: np.ndarray
    """Vectors (n, D), float32, of length 1."""

    @cached_property
    def ids(self) -> list[str]:
        """Ids (n,), which are UUIDs."""
        return [str(record["id"]) for record in self.records]

    def take(self, positions: Sequence[int]) -> "RowBatch":
        """Return the rows at these positions."""
        return RowBatch([self.records[i] for i in positions], self.vectors[list(positions)])


class VectorStore(Protocol):
    """Protocol of an opened table. What `write` has taken survives a kill, or its rows are missing after one."""

    @property
    def title(self) -> str:
        """Name of the table, for errors."""

    @property
    def kept_model(self) -> str | None:
        """Text of `to_text` that the table keeps; None if it keeps none."""

    def row_hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the `row_hash` of those ids that the table has, by id."""

    def write(self, batch: RowBatch) -> None:
        """Insert rows, in place of those with the same id."""

    def finish(self, changed: bool) -> None:
        """Make everything durable and tidy; `changed` tells whether any row was written."""

    def close(self) -> None:
        """Close the connection."""


def describe_model(data: VectorTable) -> dict[str, Any]:
    """Return what vectors of one table must have in common: the model, and how images are presented to it."""
    manifest = data.manifest
    return {
        "numbers in a vector": data.dim,
        "weights (sha256)": manifest.source_sha256,
        "attention heads": manifest.architecture.get("heads"),
        "kind of embedding": manifest.embedding,
        "preprocessing": manifest.preprocessing,
        "int8": manifest.precision == "int8",
        "resize": data.job.get("resize"),
    }


def to_text(model: Mapping[str, Any]) -> str:
    """Return the description of a model as the text that a store keeps."""
    return json.dumps(model, sort_keys=True)


def check_model(table: str, kept: str | None, model: Mapping[str, Any]) -> None:
    """Compare the model that a table keeps with that of a dataset.

    Args:
        table: The table, for errors.
        kept: Text of `to_text` that the table keeps; None if it keeps none.
        model: The dataset's model.

    Raises:
        ValueError: They differ, or the table was not made by gtsa-kit.
    """
    try:
        before = json.loads(kept or "")
    except (json.JSONDecodeError, TypeError):
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{table} was not made by gtsa embed push: it names no model; choose another name")
    new = json.loads(to_text(model))
    for name in (*new, *before):
        if before.get(name) != new.get(name):
            raise ValueError(
                f"{table} holds vectors of another model: {name} {before.get(name)}, not {new.get(name)}; "
                "choose another name"
            )
