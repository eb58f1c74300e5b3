"""Vectors of a dataset folder, block by block: however many rows there are, memory holds one block of them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtsa_kit.data.entries import natural_key
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, parse_manifest

BLOCK_BYTES = 32 << 20
"""Of float32 vectors that are looked at together."""

SLACK = 1e-4
"""More than float32 cosines of a thousand numbers can be off, in whatever order they are summed."""

PARTS = "vectors/part-*.parquet"
JOB, JOURNAL = "job.json", "journal.json"


@dataclass(frozen=True)
class Row:
    """One image of a dataset."""

    index: int
    path: str
    width: int
    height: int


@dataclass(frozen=True)
class Block:
    """Rows `start` to `start + len(vectors)` of a dataset."""

    start: int
    vectors: np.ndarray
    """(n, D) float32, as they were stored."""

    @property
    def numbers(self) -> np.ndarray:
        """(n,) row numbers."""
        return np.arange(self.start, self.start + len(self.vectors))

    @cached_property
    def unit(self) -> np.ndarray:
        """(n, D) float32 of length 1; zeros in rows that are not `sound`."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            unit = np.divide(self.vectors, self._lengths[:, None], out=np.empty_like(self.vectors), casting="same_kind")
        unit[~self.sound] = 0
        return np.asarray(unit)

    @cached_property
    def sound(self) -> np.ndarray:
        """(n,) bool: False where a vector has no direction, being zero, or holding NaN or infinity."""
        return np.asarray(np.isfinite(self._lengths) & (self._lengths > 0))

    @cached_property
    def _lengths(self) -> np.ndarray:
        """(n,) float64; einsum casts in pieces, so that no float64 copy of the block is made."""
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.einsum("nd,nd->n", self.vectors, self.vectors, dtype=np.float64, casting="same_kind")
        return np.asarray(np.sqrt(squares))


@dataclass(frozen=True)
class Vectors:
    """A dataset folder, opened for reading."""

    folder: Path
    parts: tuple[Path, ...]
    lengths: tuple[int, ...]
    """Rows of each part."""
    dim: int
    manifest: Manifest
    job: dict[str, Any]
    """What job.json holds: how the folder was made; {} where it is missing."""
    finished: bool
    """Whether all images are there."""

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def source(self) -> str | None:
        """What was embedded, None if job.json does not say."""
        return self.job.get("source")

    @property
    def starts(self) -> list[int]:
        """The first row of each part."""
        return [sum(self.lengths[:i]) for i in range(len(self.lengths))]

    @property
    def block_rows(self) -> int:
        """Rows that a block holds at most."""
        return max(1, BLOCK_BYTES // (4 * self.dim))

    def blocks(self, start: int = 0, rows: int | None = None) -> Iterator[Block]:
        """All vectors from row `start` on, in order, at most `rows` at a time (by default what `BLOCK_BYTES` holds)."""
        rows = rows or self.block_rows
        for part, first, length in zip(self.parts, self.starts, self.lengths, strict=True):
            at = first
            for batch in _batches(part, ["embedding"], rows) if first + length > start else ():
                skip = max(0, start - at)
                if skip < len(batch):
                    column = batch.column(0).slice(skip)
                    values = column.flatten().to_numpy(zero_copy_only=False)
                    yield Block(at + skip, values.reshape(len(column), self.dim).astype(np.float32, copy=False))
                at += len(batch)

    def rows(self, indices: Sequence[int] | np.ndarray | None = None) -> list[Row]:
        """The rows asked for, in the order asked for; all of them by default."""
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        found: dict[int, Row] = {}
        for at, batch in self._picked(["path", "width", "height"], wanted):
            for index, path, width, height in zip(at, *(column.to_pylist() for column in batch.columns), strict=True):
                found[index] = Row(index, path, width, height)
        return [found[index] for index in wanted.tolist()]

    def vectors(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices), D) float32, as stored."""
        wanted = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(wanted), self.dim), dtype=np.float32)
        place = {index: i for i, index in enumerate(wanted.tolist())}
        assert len(place) == len(wanted), "each row once"
        for at, batch in self._picked(["embedding"], wanted):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(len(at), self.dim)
            out[[place[index] for index in at]] = values
        return out

    def find(self, path: str) -> Row:
        """The first row of that path.

        Raises:
            ValueError: There is none; the message names up to three of the same file name.
        """
        alike: list[str] = []
        name = path.rsplit("/", 1)[-1]
        for part, first in zip(self.parts, self.starts, strict=True):
            at = first
            for batch in _batches(part, ["path"], 1 << 16):
                for index, value in enumerate(batch.column(0).to_pylist(), at):
                    if value == path:
                        return self.rows([index])[0]
                    if len(alike) < 3 and value.rsplit("/", 1)[-1] == name:
                        alike.append(value)
                at += len(batch)
        meant = f"did you mean {', '.join(alike)}?" if alike else "rows are named as in the column `path`"
        raise ValueError(f"no row of {self.folder} is called {path}; {meant}")

    def _picked(self, columns: list[str], wanted: np.ndarray) -> Iterator[tuple[list[int], pa.RecordBatch]]:
        """Row numbers and what `columns` hold there, in the order of the file."""
        sought = np.unique(wanted)
        assert not len(sought) or 0 <= sought[0] <= sought[-1] < len(self), "no such row"
        for part, first, length in zip(self.parts, self.starts, self.lengths, strict=True):
            if not np.any((sought >= first) & (sought < first + length)):
                continue
            at = first
            for batch in _batches(part, columns, self.block_rows):
                here = sought[(sought >= at) & (sought < at + len(batch))]
                if len(here):
                    yield here.tolist(), batch.take(pa.array(here - at))
                at += len(batch)


def open_vectors(folder: Path) -> Vectors:
    """Open what `gtsa embed` wrote, finished or not.

    Raises:
        ValueError: No dataset, no rows, a damaged part, or parts of several models.
    """
    parts = tuple(sorted(folder.glob(PARTS), key=natural_key))
    journal = _read_json(folder / JOURNAL)
    if "shards" in journal:  # a part beyond was cut off by a kill, and will be written again
        parts = parts[: max(1, int(journal["shards"]))]
    if not parts:
        raise ValueError(f"{folder} holds no vectors ({PARTS}); make them with gtsa embed FOLDER --out {folder}")
    metadata = [_footer(part) for part in parts]
    schemas = [found.schema.to_arrow_schema() for found in metadata]
    dims = {_dim(part, schema) for part, schema in zip(parts, schemas, strict=True)}
    manifests = {(schema.metadata or {}).get(METADATA_KEY.encode()) for schema in schemas}
    if len(dims) > 1 or len(manifests) > 1:
        raise ValueError(f"the parts in {folder} come from several models; embed the images again, with one")
    text = manifests.pop()
    if text is None:
        raise ValueError(f"{parts[0]} does not say which model made it; make it with gtsa embed")
    manifest = parse_manifest(text.decode(), str(parts[0]))
    lengths = tuple(found.num_rows for found in metadata)
    if not sum(lengths):
        raise ValueError(f"{folder} holds no rows: no image was embedded; its errors.jsonl says why")
    job, finished = _read_json(folder / JOB), bool(journal.get("complete", True))
    return Vectors(folder, parts, lengths, dims.pop(), manifest, job, finished)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) float64 cosines of the rows of (n, D) and of (n, D) or (1, D), nan where one has no direction.

    Rounded to 12 decimals: what is equal but for the last bits of its arithmetic ties, whichever block it lay in.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        found = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray(np.round(np.clip(found, -1, 1), 12))


def _batches(part: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    with _reading(part), pq.ParquetFile(part, pre_buffer=False) as file:
        yield from file.iter_batches(rows, columns=columns, use_threads=False)


def _footer(part: Path) -> pq.FileMetaData:
    with _reading(part), pq.ParquetFile(part) as file:
        return file.metadata


@contextmanager
def _reading(part: Path) -> Iterator[None]:
    """What the Parquet reader says of damage, as a `ValueError`; the system's own errors pass."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{part} is damaged: {why}; remove it and run gtsa embed again with --resume") from error


def _dim(part: Path, schema: pa.Schema) -> int:
    """Length of the vectors, else `ValueError`."""
    missing = {"path", "width", "height", "embedding"} - set(schema.names)
    if missing:
        raise ValueError(f"{part} has no column {', '.join(sorted(missing))}; make it with gtsa embed")
    kind = schema.field("embedding").type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise ValueError(f"the column embedding of {part} is {kind}, no fixed-size list of floats")
    return int(kind.list_size)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}; run gtsa embed again with --resume") from error
    if not isinstance(job, dict):
        raise ValueError(f"{path} is damaged: it holds no object; run gtsa embed again with --resume")
    return job
