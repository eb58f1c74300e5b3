"""Vectors of a dataset folder, read block by block: memory holds one block, whatever the number of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gtsa_kit.embedding.browse.parquet_parts import check_schema, read_batches, read_footer, read_json
from gtsa_kit.embedding.folder import JOB, JOURNAL, VECTORS, vector_parts
from gtsa_kit.embedding.locations import known_locations
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, parse_manifest
from gtsa_kit.files import shell_word

BLOCK_BYTES = 32 << 20
"""Size of a block of float32 vectors."""

FLOAT32_SLACK = 1e-4
"""Upper bound of the error of a float32 cosine of vectors of length 1,000, in any order of the sum."""

_ROW_COLUMNS = ("path", "width", "height", "sha256", "stamp")
"""Fields of `ImageRow` after the index, in their order."""


@dataclass(frozen=True)
class ImageRow:
    """Columns of one row that describe the image."""

    index: int
    """Index of the row in the dataset."""
    path: str
    width: int
    height: int
    sha256: str
    """Digest of the file that was embedded."""
    stamp: str
    """Size and modification time of that file, or another mark that changes with it; "" if unknown."""


@dataclass(frozen=True)
class VectorBlock:
    """Vectors of the rows `start` to `start + len(vectors)` of a dataset."""

    start: int
    vectors: np.ndarray
    """Vectors (n, D), float32, as they are stored."""

    @property
    def indices(self) -> np.ndarray:
        """Row indices (n,)."""
        return np.arange(self.start, self.start + len(self.vectors))

    @cached_property
    def unit(self) -> np.ndarray:
        """Vectors (n, D), float32, divided by their norms; zeros in rows that are not `valid`."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            unit = np.divide(self.vectors, self._norms[:, None], out=np.empty_like(self.vectors), casting="same_kind")
        unit[~self.valid] = 0
        return np.asarray(unit)

    @cached_property
    def valid(self) -> np.ndarray:
        """Mask (n,): False for a vector without a direction, which is zero, or holds NaN or infinity."""
        return np.asarray(np.isfinite(self._norms) & (self._norms > 0))

    @cached_property
    def _norms(self) -> np.ndarray:
        """Norms (n,), float64. einsum casts piece by piece and makes no float64 copy of the block."""
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.einsum("nd,nd->n", self.vectors, self.vectors, dtype=np.float64, casting="same_kind")
        return np.asarray(np.sqrt(squares))


@dataclass(frozen=True)
class VectorTable:
    """Vectors and paths of a dataset folder, opened for reading."""

    folder: Path
    parts: tuple[Path, ...]
    """Parquet files, in order."""
    part_rows: tuple[int, ...]
    """Number of rows of each part."""
    dim: int
    """Length D of a vector."""
    manifest: Manifest
    """Manifest of the model that made the vectors."""
    job: dict[str, Any]
    """Content of job.json; {} if it is missing."""
    complete: bool
    """All images of the job are embedded."""

    def __len__(self) -> int:
        return sum(self.part_rows)

    @property
    def sources(self) -> tuple[str, ...]:
        """Known locations of the images' source, () if job.json does not name it."""
        return known_locations(self.job.get("source"), self.folder)

    @property
    def models(self) -> tuple[str, ...]:
        """Known locations of the model, () if job.json does not name it."""
        return known_locations(self.job.get("model"), self.folder)

    @property
    def part_starts(self) -> list[int]:
        """Index of the first row of each part."""
        return [sum(self.part_rows[:i]) for i in range(len(self.part_rows))]

    @property
    def rows_per_block(self) -> int:
        """Rows of a block, at most."""
        return max(1, BLOCK_BYTES // (4 * self.dim))

    def blocks(self, start: int = 0, max_rows: int | None = None) -> Iterator[VectorBlock]:
        """Yield all vectors from row `start` on, in blocks of `max_rows` rows at most (by default `BLOCK_BYTES`)."""
        max_rows = max_rows or self.rows_per_block
        for part, first, length in zip(self.parts, self.part_starts, self.part_rows, strict=True):
            position = first
            for batch in read_batches(part, ["embedding"], max_rows) if first + length > start else ():
                skip = max(0, start - position)
                if skip < len(batch):
                    yield VectorBlock(position + skip, self._matrix(batch.column(0).slice(skip)))
                position += len(batch)

    def blocks_with_rows(self, max_rows: int) -> Iterator[tuple[VectorBlock, list[ImageRow]]]:
        """Yield all vectors with their rows, in one pass over the files, in blocks of `max_rows` rows at most."""
        for part, first in zip(self.parts, self.part_starts, strict=True):
            for batch in read_batches(part, [*_ROW_COLUMNS, "embedding"], max_rows):
                block = VectorBlock(first, self._matrix(batch["embedding"]))
                columns = (batch[name].to_pylist() for name in _ROW_COLUMNS)
                yield block, [ImageRow(*values) for values in zip(block.indices.tolist(), *columns, strict=True)]
                first += len(batch)

    def rows(self, indices: Sequence[int] | np.ndarray | None = None) -> list[ImageRow]:
        """Return the rows of these indices, in their order; all rows by default."""
        requested = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        rows: dict[int, ImageRow] = {}
        for batch_indices, batch in self._select(list(_ROW_COLUMNS), requested):
            columns = (column.to_pylist() for column in batch.columns)
            for index, *values in zip(batch_indices, *columns, strict=True):
                rows[index] = ImageRow(index, *values)
        return [rows[index] for index in requested.tolist()]

    def vectors(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the vectors (len(indices), D), float32, of different rows, in the order of the indices."""
        requested = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(requested), self.dim), dtype=np.float32)
        positions = {index: i for i, index in enumerate(requested.tolist())}
        assert len(positions) == len(requested), "each row once"
        for batch_indices, batch in self._select(["embedding"], requested):
            out[[positions[index] for index in batch_indices]] = self._matrix(batch.column(0))
        return out

    def find(self, path: str) -> ImageRow:
        """Return the first row with this path.

        Raises:
            ValueError: There is none. The message names up to three rows with the same file name.
        """
        similar: list[str] = []
        name = path.rsplit("/", 1)[-1]
        for part, first in zip(self.parts, self.part_starts, strict=True):
            position = first
            for batch in read_batches(part, ["path"], 1 << 16):
                for index, value in enumerate(batch.column(0).to_pylist(), position):
                    if value == path:
                        return self.rows([index])[0]
                    if len(similar) < 3 and value.rsplit("/", 1)[-1] == name:
                        similar.append(value)
                position += len(batch)
        hint = f"did you mean {', '.join(similar)}?" if similar else "give a value of the column `path`"
        raise ValueError(f"no row of {self.folder} has the path {path}; {hint}")

    def _matrix(self, column: pa.Array) -> np.ndarray:
        """Return a column of vectors as (n, D), float32."""
        values = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values.reshape(len(column), self.dim).astype(np.float32, copy=False))

    def _select(self, columns: list[str], requested: np.ndarray) -> Iterator[tuple[list[int], pa.RecordBatch]]:
        """Yield the requested row indices with their values of `columns`, batch by batch, in the order of the files."""
        indices = np.unique(requested)
        assert not len(indices) or 0 <= indices[0] <= indices[-1] < len(self), "no such row"
        for part, first, length in zip(self.parts, self.part_starts, self.part_rows, strict=True):
            if not np.any((indices >= first) & (indices < first + length)):
                continue
            position = first
            for batch in read_batches(part, columns, self.rows_per_block):
                selected = indices[(indices >= position) & (indices < position + len(batch))]
                if len(selected):
                    yield selected.tolist(), batch.take(pa.array(selected - position))
                position += len(batch)


def open_vectors(folder: Path) -> VectorTable:
    """Open a dataset folder that `gtsa embed` wrote, complete or not.

    Raises:
        ValueError: The folder has no vectors or no rows, a part is damaged, or parts come from several models.
    """
    parts = vector_parts(folder)
    journal = read_json(folder / JOURNAL)
    if "shards" in journal:  # a kill interrupted the writing of later parts; the job writes them again
        parts = parts[: max(1, int(journal["shards"]))]
    if not parts:
        raise ValueError(
            f"{folder} holds no vectors ({VECTORS}/); make them with gtsa embed FOLDER --out {shell_word(folder)}"
        )
    metadata = [read_footer(part) for part in parts]
    schemas = [footer.schema.to_arrow_schema() for footer in metadata]
    dims = {check_schema(part, schema) for part, schema in zip(parts, schemas, strict=True)}
    manifests = {(schema.metadata or {}).get(METADATA_KEY.encode()) for schema in schemas}
    if len(dims) > 1 or len(manifests) > 1:
        raise ValueError(f"the parts in {folder} come from several models; embed the images again, with one")
    text = manifests.pop()
    if text is None:
        raise ValueError(f"{parts[0]} does not name the model that made it; make it with gtsa embed")
    manifest = parse_manifest(text.decode(), str(parts[0]))
    part_rows = tuple(footer.num_rows for footer in metadata)
    if not sum(part_rows):
        raise ValueError(f"{folder} holds no rows: no image was embedded; the reasons are in its errors.jsonl")
    job, complete = read_json(folder / JOB), bool(journal.get("complete", True))
    return VectorTable(folder, tuple(parts), part_rows, dims.pop(), manifest, job, complete)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return cosines (n,), float64, between rows of (n, D) and of (n, D) or (1, D); NaN for a vector without direction.

    They are rounded to 12 decimals, so that equal vectors tie: the last bits of a sum depend on the block.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        quotient = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray(np.round(np.clip(quotient, -1, 1), 12))
