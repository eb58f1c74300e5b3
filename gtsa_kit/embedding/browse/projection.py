"""Two-dimensional projection of a dataset, in which similar images are close to each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gtsa_kit.embedding.browse.products import UnitRows
from gtsa_kit.embedding.browse.vectors import ImageRow, VectorTable, cosines

if TYPE_CHECKING:
    import torch

MAX_POINTS = 100_000
"""Default maximum of points: a browser draws them without delay, and their vectors fit into memory."""

MAX_TSNE_POINTS = 5_000
"""Points of t-SNE; more would take many minutes."""

LAYOUTS = ("pca", "tsne")
"""Methods of projection."""

NEIGHBORS = 5
"""Nearest neighbors of each point."""

_ROWS_AT_A_TIME = 512


@dataclass(frozen=True)
class Projection:
    """Points of a projection with their rows and nearest neighbors, in the order of the rows."""

    rows: list[ImageRow]
    points: np.ndarray
    """Positions (n, 2), float32; the longer side of their bounding box reaches from -1 to 1."""
    neighbors: np.ndarray
    """Indices (n, k), int32, of the nearest other points by cosine of the vectors, best first."""
    cosines: np.ndarray
    """Cosines (n, k), float32, with those neighbors."""
    total: int
    """Rows of the dataset."""
    invalid: list[ImageRow]
    """Sampled rows without a direction (zeros, NaN, infinity), which are left out."""


def make_projection(
    data: VectorTable,
    layout: str = "pca",
    max_points: int = MAX_POINTS,
    device: "torch.device | None" = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Projection:
    """Project at most `max_points` rows, evenly sampled from the dataset.

    Args:
        data: The dataset.
        layout: "pca" for two principal components; "tsne" for scikit-learn's t-SNE of up to `MAX_TSNE_POINTS` points.
        max_points: Number of points, at most.
        device: Device of the products; None computes them with numpy.
        on_progress: Called with (points with known neighbors, total points).

    Raises:
        ValueError: The layout is unknown, has too many points or needs scikit-learn; or no row has a direction.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    sampled = np.unique(np.linspace(0, len(data) - 1, min(max_points, len(data))).round().astype(np.int64))
    if layout == "tsne" and len(sampled) > MAX_TSNE_POINTS:
        hint = f"use --layout pca or --points {MAX_TSNE_POINTS}"
        raise ValueError(f"t-SNE of {len(sampled)} points takes too long; {hint}")
    unit, sampled, invalid = _read_directions(data, sampled)
    if not len(sampled):
        raise ValueError(f"no row of {data.folder} has a direction: all vectors are zero, or hold NaN or infinity")
    neighbors, cosine = _nearest_neighbors(unit, device, on_progress)
    points = pca(unit, 2) if layout == "pca" else _tsne(unit)
    return Projection(data.rows(sampled), _scale_to_unit_box(points), neighbors, cosine, len(data), data.rows(invalid))


def pca(vectors: np.ndarray, count: int) -> np.ndarray:
    """Return the scores (n, count), float64, on the first principal components; each has a positive largest weight."""
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = vectors - mean
    _, basis = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    basis = basis[:, ::-1][:, :count]
    basis = basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0))
    scores = centered @ basis
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1])))


def _read_directions(data: VectorTable, sampled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the unit vectors (n, D) of the valid sampled rows, their indices, and the indices of the invalid ones."""
    unit, valid = np.empty((len(sampled), data.dim), dtype=np.float32), np.zeros(len(sampled), dtype=bool)
    for block in data.blocks():
        first, last = np.searchsorted(sampled, [block.start, block.start + len(block.vectors)])
        positions = sampled[first:last] - block.start
        unit[first:last], valid[first:last] = block.unit[positions], block.valid[positions]
    return (unit, sampled, sampled[:0]) if valid.all() else (unit[valid], sampled[valid], sampled[~valid])


def _nearest_neighbors(
    unit: np.ndarray, device: "torch.device | None", on_progress: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (n, k), int32, and cosines, float32, of the nearest others; ties in the order of the rows."""
    count, k = len(unit), min(NEIGHBORS, len(unit) - 1)
    neighbors, cosine = np.empty((count, k), dtype=np.int32), np.empty((count, k), dtype=np.float32)
    rows_on_device = UnitRows(unit, device)
    for start in range(0, count if k else 0, _ROWS_AT_A_TIME):
        others = rows_on_device.nearest_others(start, start + _ROWS_AT_A_TIME, min(2 * k, count - 1))
        rows = slice(start, start + len(others))
        exact = cosines(unit[others.ravel()], np.repeat(unit[rows], others.shape[1], axis=0)).reshape(others.shape)
        best = np.lexsort((others, -exact), axis=1)[:, :k]
        neighbors[rows], cosine[rows] = (np.take_along_axis(values, best, axis=1) for values in (others, exact))
        on_progress(start + len(others), count)
    return neighbors, cosine


def _tsne(unit: np.ndarray) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ValueError("--layout tsne needs scikit-learn; pip install scikit-learn, or use --layout pca") from error
    if len(unit) < 4 or np.ptp(unit, axis=0).max() < 1e-6:  # too few points for any perplexity, or all points equal
        return pca(unit, 2)
    scores = pca(unit, max(2, min(50, unit.shape[1], len(unit))))
    # Noise makes all initial positions different: scikit-learn 1.9 divides by zero and crashes on equal ones.
    initial = scores[:, :2] / max(float(scores[:, 0].std()), 1e-6) + np.random.default_rng(0).normal(
        0, 1e-2, (len(unit), 2)
    )
    perplexity = min(30.0, (len(unit) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init=1e-4 * initial, random_state=0).fit_transform(scores))


def _scale_to_unit_box(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-12)
    return np.asarray((points - (low + high) / 2) / half, dtype=np.float32)
