"""A dataset as points on a plane: like images lie together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gtsa_kit.embedding.browse.vectors import Row, Vectors, cosines

MOST_POINTS = 100_000
"""What a browser draws without stutter; their vectors are held in memory together."""

MOST_FOR_TSNE = 5_000
"""Beyond, t-SNE takes many minutes."""

LAYOUTS = ("pca", "tsne")

NEIGHBORS = 5

_ROWS = 512


@dataclass(frozen=True)
class Atlas:
    """Points and what is known of them, in the order of the rows."""

    rows: list[Row]
    points: np.ndarray
    """(n, 2) float32, the longer side of their box from -1 to 1."""
    near: np.ndarray
    """(n, k) int32: numbers of the nearest other points by cosine of the vectors, best first."""
    cosines: np.ndarray
    """(n, k) float32, of those."""
    total: int
    """Rows of the dataset."""
    unsound: int
    """Rows without a direction (zeros, NaN) among those chosen, which are left out."""


def make_atlas(
    data: Vectors,
    layout: str = "pca",
    most: int = MOST_POINTS,
    device: torch.device | str = "cpu",
    on_points: Callable[[int, int], None] = lambda *_: None,
) -> Atlas:
    """Lay out at most `most` rows, evenly spread over the dataset.

    Args:
        data: The dataset.
        layout: "pca", two principal components; "tsne", by scikit-learn, for up to `MOST_FOR_TSNE` points.
        most: Points.
        device: What multiplies.
        on_points: Told (points whose neighbors are found, of how many).

    Raises:
        ValueError: An unknown layout, too many points for t-SNE, no scikit-learn, or no row with a direction.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    chosen = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(np.int64))
    if layout == "tsne" and len(chosen) > MOST_FOR_TSNE:
        raise ValueError(f"t-SNE of {len(chosen)} points takes too long; use --layout pca or --points {MOST_FOR_TSNE}")
    unit, chosen, unsound = _directions(data, chosen)
    if not len(chosen):
        raise ValueError(f"no row of {data.folder} has a direction: all vectors are zero, or hold NaN or infinity")
    near, cosine = _nearest(unit, torch.device(device), on_points)
    points = pca(unit, 2) if layout == "pca" else _tsne(unit)
    return Atlas(data.rows(chosen), _boxed(points), near, cosine, len(data), unsound)


def pca(vectors: np.ndarray, count: int) -> np.ndarray:
    """(n, count) float64 scores on the first principal components; the largest weight of each component is positive."""
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = vectors - mean
    _, basis = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    basis = basis[:, ::-1][:, :count]
    basis = basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0))
    scores = centered @ basis
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1])))


def _directions(data: Vectors, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Unit vectors (n, D) of the chosen rows that have a direction, their numbers, and how many have none."""
    unit, sound = np.empty((len(chosen), data.dim), dtype=np.float32), np.zeros(len(chosen), dtype=bool)
    for block in data.blocks():
        first, last = np.searchsorted(chosen, [block.start, block.start + len(block.vectors)])
        places = chosen[first:last] - block.start
        unit[first:last], sound[first:last] = block.unit[places], block.sound[places]
    if sound.all():
        return unit, chosen, 0
    return unit[sound], chosen[sound], int((~sound).sum())


def _nearest(
    unit: np.ndarray, device: torch.device, on_points: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) int32 numbers and float32 cosines of the nearest others; equal ones in the order of the rows."""
    count, k = len(unit), min(NEIGHBORS, len(unit) - 1)
    near, cosine = np.empty((count, k), dtype=np.int32), np.empty((count, k), dtype=np.float32)
    everything = torch.from_numpy(unit).to(device)
    for start in range(0, count if k else 0, _ROWS):
        rough = everything[start : start + _ROWS] @ everything.T
        rough[torch.arange(len(rough)), torch.arange(start, start + len(rough))] = -2
        others = rough.topk(min(2 * k, count - 1), dim=1).indices.cpu().numpy()
        ours = slice(start, start + len(others))
        exact = cosines(unit[others.ravel()], np.repeat(unit[ours], others.shape[1], axis=0)).reshape(others.shape)
        best = np.lexsort((others, -exact), axis=1)[:, :k]
        near[ours], cosine[ours] = (np.take_along_axis(found, best, axis=1) for found in (others, exact))
        on_points(start + len(others), count)
    return near, cosine


def _tsne(unit: np.ndarray) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ValueError("--layout tsne needs scikit-learn; pip install scikit-learn, or use --layout pca") from error
    if len(unit) < 4 or np.ptp(unit, axis=0).max() < 1e-6:  # too few for any perplexity, or nothing to tell apart
        return pca(unit, 2)
    start = pca(unit, max(2, min(50, unit.shape[1], len(unit))))
    # Our own first places, all different: with equal ones scikit-learn 1.9 divides by zero and ends in a crash.
    first = start[:, :2] / max(float(start[:, 0].std()), 1e-6) + np.random.default_rng(0).normal(
        0, 1e-2, (len(unit), 2)
    )
    perplexity = min(30.0, (len(unit) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init=1e-4 * first, random_state=0).fit_transform(start))


def _boxed(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-12)
    return np.asarray((points - (low + high) / 2) / half, dtype=np.float32)
