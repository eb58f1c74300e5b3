"""The nearest rows of a vector: exact, in one pass over the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtsa_kit.embedding.browse.vectors import SLACK, Row, Vectors, cosines
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.export import Runner, load
from gtsa_kit.models.encoder import Preprocessing


@dataclass(frozen=True)
class Hit:
    """A row that was found."""

    row: Row
    cosine: float


def inner_products(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(N, D) float32 by (D,) to (N,), exact: by faiss if it is installed, else by numpy."""
    if find_spec("faiss") is None:
        return np.asarray(rows @ unit)
    import faiss

    rows = np.ascontiguousarray(rows)
    return np.asarray(faiss.pairwise_distances(unit[None], rows, metric=faiss.METRIC_INNER_PRODUCT)[0])


def search(
    data: Vectors,
    query: np.ndarray,
    top: int,
    leave_out: int | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> list[Hit]:
    """The `top` rows of highest cosine, best first; equal ones in the order of the rows.

    float32 chooses who may be among them, a block at a time; float64 decides. Rows without a direction (zeros, NaN)
    are never found.

    Args:
        data: The dataset.
        query: (D,), of any length but 0.
        top: At least 1.
        leave_out: A row that is not to be found: the query itself.
        on_rows: Told how many rows were looked at so far.

    Raises:
        ValueError: A query of another D, or without a direction.
    """
    query = np.asarray(query, dtype=np.float64)
    length = np.linalg.norm(query)
    if query.shape != (data.dim,):
        raise ValueError(f"the rows have {data.dim} numbers, the query {' x '.join(map(str, query.shape))}")
    if not (np.isfinite(length) and length > 0):
        raise ValueError("the query has no direction: its vector is zero, or holds NaN or infinity")
    unit = (query / length).astype(np.float32)
    best, rows = np.empty(0), np.empty(0, dtype=np.int64)
    for block in data.blocks():
        rough = np.where(block.sound, inner_products(block.unit, unit), -np.inf)
        if leave_out is not None and 0 <= leave_out - block.start < len(rough):
            rough[leave_out - block.start] = -np.inf
        floor = best[-1] if len(best) == top else -1
        if len(rough) > top:
            floor = max(floor, np.partition(rough, -top)[-top])
        near = np.flatnonzero(rough >= floor - SLACK)
        best = np.concatenate([best, cosines(block.vectors[near], query[None])])
        rows = np.concatenate([rows, block.start + near])
        order = np.lexsort((rows, -best))[:top]
        best, rows = best[order], rows[order]
        on_rows(block.start + len(rough))
    return [Hit(row, float(cosine)) for row, cosine in zip(data.rows(rows), best, strict=True)]


def open_model(data: Vectors, model: Path | None = None, device: str = "auto") -> Runner:
    """The model that made the rows, from where it lay then or from `model`.

    Raises:
        ValueError: It is not there, or another one: other weights, another preprocessing, another D.
    """
    was_at = data.job.get("model", {}).get("path")
    path = model or (Path(was_at) if was_at else None)
    if path is None or not path.exists():
        was = f"{path} does not exist" if path else f"{data.folder} does not say where its model lies"
        raise ValueError(f"{was}; name the model of these vectors with --model")
    runner = load(path, device)
    made, now = data.manifest, runner.manifest
    for what, old, new in (
        ("weights (sha256)", made.source_sha256, now.source_sha256),
        ("numbers in a vector", made.dim, now.dim),
        ("preprocessing", Preprocessing.from_dict(made.preprocessing), runner.preprocessing),
    ):
        if old != new:
            raise ValueError(f"{path} is not the model of {data.folder}: {what} {new}, not {old}; name it with --model")
    return runner


def embed_query(runner: Runner, image: Image.Image, sizes: Mapping[str, Any] | None = None) -> np.ndarray:
    """(D,) float32 vector of one image, made as the rows were.

    Args:
        runner: Their model.
        image: Upright RGB.
        sizes: What job.json says of them: the fields of a `ResizePolicy`; None for the model's own size.
    """
    size = ResizePolicy(**sizes)(*image.size) if sizes else None
    return np.asarray(runner(runner.prepare(image, size)[None]).embedding[0])
