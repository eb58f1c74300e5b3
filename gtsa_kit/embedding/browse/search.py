"""Exact search for the nearest rows of a vector, in one pass over the files."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gtsa_kit.embedding.browse.vectors import FLOAT32_SLACK, ImageRow, VectorTable, cosines
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.export import Runner, load
from gtsa_kit.export.open_options import ImportOptions, LoadOptions
from gtsa_kit.export.source_facts import facts_of_own, takes_import_options
from gtsa_kit.models.preprocessing import InputImage, Preprocessing, image_size


@dataclass(frozen=True)
class SearchHit:
    """A row and its cosine with the query."""

    row: ImageRow
    cosine: float


@dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    hits: list[SearchHit]
    """Nearest rows, best first."""
    invalid: list[ImageRow]
    """Rows without a direction (zeros, NaN, infinity), which are never found."""


def inner_products(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the exact products (N,) of (N, D) float32 with (D,), by faiss if it is installed, otherwise by numpy."""
    try:
        import faiss
    except ImportError:
        return np.asarray(rows @ unit)
    rows = np.ascontiguousarray(rows)
    return np.asarray(faiss.pairwise_distances(unit[None], rows, metric=faiss.METRIC_INNER_PRODUCT)[0])


def search(
    data: VectorTable,
    query: np.ndarray,
    top: int,
    exclude: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> SearchResult:
    """Find the `top` rows of highest cosine, best first; rows of equal cosine are in their order.

    float32 products select candidates, one block at a time, and float64 cosines rank them.

    Args:
        data: The dataset.
        query: Vector (D,) of any norm but 0.
        top: Number of rows, at least 1.
        exclude: Index of a row to exclude, for example the query's own.
        on_progress: Called with the number of rows that are compared so far.

    Raises:
        ValueError: The query has another length, or no direction.
    """
    query = np.asarray(query, dtype=np.float64)
    norm = np.linalg.norm(query)
    if query.shape != (data.dim,):
        raise ValueError(f"the rows have {data.dim} numbers, the query {' x '.join(map(str, query.shape))}")
    if not (np.isfinite(norm) and norm > 0):
        raise ValueError("the query has no direction: its vector is zero, or holds NaN or infinity")
    unit = (query / norm).astype(np.float32)
    best, indices, invalid = np.empty(0), np.empty(0, dtype=np.int64), list[int]()
    for block in data.blocks():
        invalid += block.indices[~block.valid].tolist()
        approximate = np.where(block.valid, inner_products(block.unit, unit), -np.inf)
        if exclude is not None and 0 <= exclude - block.start < len(approximate):
            approximate[exclude - block.start] = -np.inf
        threshold = best[-1] if len(best) == top else -1
        if len(approximate) > top:
            threshold = max(threshold, np.partition(approximate, -top)[-top])
        candidates = np.flatnonzero(approximate >= threshold - FLOAT32_SLACK)
        best = np.concatenate([best, cosines(block.vectors[candidates], query[None])])
        indices = np.concatenate([indices, block.start + candidates])
        order = np.lexsort((indices, -best))[:top]
        best, indices = best[order], indices[order]
        on_progress(block.start + len(approximate))
    hits = [SearchHit(row, float(cosine)) for row, cosine in zip(data.rows(indices), best, strict=True)]
    return SearchResult(hits, data.rows(invalid))


def open_model(data: VectorTable, model: Path | None = None, opener: Callable[[Path], Runner] = load) -> Runner:
    """Open the model that made the rows, at the path of job.json or at `model`.

    Raises:
        ValueError: It is missing, or its weights, architecture, preprocessing or vector length differ.
    """
    candidates = [model] if model else [Path(path) for path in data.models]
    existing = [path for path in candidates if path.exists()]
    if not existing:
        reason = f"{candidates[0]} does not exist" if candidates else f"{data.folder} does not record its model's path"
        raise ValueError(f"{reason}; name the model of these vectors with --model")
    for path in existing[:-1]:
        with suppress(ValueError):  # another model lies at its old path: it may have moved together with the dataset
            return _open_checked(data, path, opener)
    return _open_checked(data, existing[-1], opener)


def model_options(data: VectorTable, path: Path, options: LoadOptions) -> LoadOptions:
    """Return the options to open a model with: without import options, those of the job that made the rows.

    Facts of an import are for weights of another tool, some also for a run; an exported file takes none.
    """
    recorded = data.job.get("model", {}).get("import_options")
    if options.import_options.given or not recorded:
        return options
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()
    }
    given = replace(options, import_options=ImportOptions(**facts))
    return given if takes_import_options(path) else given.with_facts(*facts_of_own(path))


def _open_checked(data: VectorTable, path: Path, opener: Callable[[Path], Runner]) -> Runner:
    runner = opener(path)
    old, new = data.manifest, runner.manifest
    for name, old_value, new_value in (
        ("weights (sha256)", old.source_sha256, new.source_sha256),
        ("numbers in a vector", old.dim, new.dim),
        ("attention heads", old.architecture.get("heads"), new.architecture.get("heads")),
        ("preprocessing", Preprocessing.from_dict(old.preprocessing), runner.preprocessing),
    ):
        if old_value != new_value:
            difference = f"{name} {new_value}, not {old_value}"
            raise ValueError(f"{path} is not the model of {data.folder}: {difference}; name it with --model")
    return runner


def embed_query(runner: Runner, image: InputImage, resize: Mapping[str, Any] | None = None) -> np.ndarray:
    """Return the vector (D,), float32, of one image, preprocessed as the rows were.

    Args:
        runner: The model that made the rows.
        image: Upright RGB, or samples (H, W, N) of other channels.
        resize: Fields of a `ResizePolicy`, from job.json; None for the model's own size.
    """
    size = ResizePolicy(**resize)(*image_size(image)) if resize else None
    return np.asarray(runner(runner.prepare(image, size)[None]).embedding[0])
