"""A folder to one Parquet file of embeddings: streamed, so memory stays flat; whole, or not there at all."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtsa_kit.export import Runner
from gtsa_kit.files import atomic_write, write_json_lines
from gtsa_kit.images import MAX_PIXELS, BrokenImage, Found, open_image, windowed_map

BATCH = 32


@dataclass(frozen=True)
class Row:
    """One photograph, ready for the model."""

    path: Path
    width: int
    height: int
    image: np.ndarray
    """(3, H, W) float32, preprocessed."""


@dataclass(frozen=True)
class Summary:
    """What `embed_folder` did."""

    rows: int
    broken: list[BrokenImage]
    parquet: Path
    errors: Path


def embed_folder(
    found: Found,
    runner: Runner,
    out: Path,
    batch_size: int = BATCH,
    max_pixels: int = MAX_PIXELS,
    on_done: Callable[[int, int], None] = lambda *_: None,
) -> Summary:
    """Write embeddings.parquet and errors.jsonl into `out`; every file ends in one of them, none in both.

    Rows are in natural order of the paths: `path` (relative to the folder), `width` and `height` of the upright
    photograph, `embedding` as a fixed-size list of float32. Both files replace earlier ones all at once.

    Args:
        found: The photographs.
        runner: The model.
        out: Made if missing.
        batch_size: Photographs that the model takes at a time.
        max_pixels: Larger photographs count as broken.
        on_done: Told (photographs done, broken among them).
    """
    out.mkdir(parents=True, exist_ok=True)
    parquet, errors = out / "embeddings.parquet", out / "errors.jsonl"
    schema = embedding_schema(runner)
    broken, rows = list(found.broken), 0
    with atomic_write(parquet) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        loaded = _load_all(found.paths, runner, max_pixels)
        while chunk := list(islice(loaded, batch_size)):
            good = [row for row in chunk if isinstance(row, Row)]
            broken += [error for error in chunk if isinstance(error, BrokenImage)]
            if good:
                embeddings = runner(np.stack([row.image for row in good])).embedding
                writer.write_batch(_record_batch(found, good, embeddings, schema))
                rows += len(good)
            on_done(rows + len(broken) - len(found.broken), len(broken))
    write_json_lines(errors, [{"path": found.name(error.path), "reason": error.reason} for error in broken])
    return Summary(rows, broken, parquet, errors)


def embedding_schema(runner: Runner) -> pa.Schema:
    """Columns, with the model's manifest in the metadata under `gtsa_kit`."""
    fields = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), runner.manifest.dim), nullable=False),
    ]
    return pa.schema(fields, metadata={"gtsa_kit": runner.manifest.model_dump_json()})


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths and (N, D) float32 of an embeddings.parquet."""
    table = pq.read_table(path, columns=["path", "embedding"])
    column = table["embedding"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
    return table["path"].to_pylist(), values


def _load_all(paths: list[Path], runner: Runner, max_pixels: int) -> Iterator[Row | BrokenImage]:
    """Decode and preprocess in threads, a bounded number ahead of the model, in the order of `paths`."""

    def load_one(path: Path) -> Row | BrokenImage:
        try:
            image = open_image(path, max_pixels)
        except BrokenImage as error:
            return error
        return Row(path, image.width, image.height, runner.prepare(image))

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=threads) as pool:
        yield from windowed_map(pool, load_one, paths, window=2 * BATCH)


def _record_batch(found: Found, rows: list[Row], embeddings: np.ndarray, schema: pa.Schema) -> pa.RecordBatch:
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).ravel())
    columns = [
        pa.array([found.name(row.path) for row in rows], pa.string()),
        pa.array([row.width for row in rows], pa.int32()),
        pa.array([row.height for row in rows], pa.int32()),
        pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
