"""Figure of the nearest neighbors of some images."""

from pathlib import Path

import numpy as np

from gtsa_kit.data.image_io import open_image
from gtsa_kit.evaluation.eval_images import evenly_spaced_indices
from gtsa_kit.evaluation.support.plots import image_grid, save_figure, show_image


def draw_neighbors(vectors: np.ndarray, paths: list[Path], out: Path, queries: int = 6, top: int = 5) -> list[Path]:
    """Draw a row for each of some query images: the query, then its nearest neighbors.

    Images whose vectors hold NaN or infinity are left out and returned; one of them would make every cosine NaN.

    Args:
        vectors: (N, D) embeddings.
        paths: N images.
        out: Path of the PNG.
        queries: Number of query images, evenly spaced over the list.
        top: Number of neighbors of each.

    Raises:
        ValueError: No vector is finite.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.any():
        raise ValueError("all vectors hold NaN or infinity; check the model with gtsa verify")
    skipped = [path for path, is_finite in zip(paths, finite, strict=True) if not is_finite]
    vectors, paths = vectors[finite], [path for path, is_finite in zip(paths, finite, strict=True) if is_finite]
    query_indices = evenly_spaced_indices(len(paths), queries)
    neighbors, cosines = nearest_neighbors(vectors, query_indices, top)
    figure = image_grid(1 + neighbors.shape[1], len(query_indices), height=2.0)
    axes = iter(figure.axes)
    for row, query in enumerate(query_indices):
        show_image(next(axes), open_image(paths[query]), "query")
        for index, cosine in zip(neighbors[row], cosines[row], strict=True):
            show_image(next(axes), open_image(paths[index]), f"{cosine:.3f}")
    save_figure(figure, out)
    return skipped


def nearest_neighbors(vectors: np.ndarray, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other rows of vectors by cosine.

    Vectors are centered first. Otherwise their mean, which all images share, makes every cosine nearly 1.

    Args:
        vectors: (N, D) embeddings.
        queries: (Q,) indices of the query rows.
        top: Number of neighbors.

    Returns:
        Indices and cosines, (Q, top) each, in descending order of the cosine.
    """
    centered = vectors - vectors.mean(axis=0)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    cosines = unit[queries] @ unit.T
    cosines[np.arange(len(queries)), queries] = -2
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(top, len(vectors) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)
