"""Nearest neighbors as a picture that a person can judge."""

from pathlib import Path

import numpy as np

from gtsa_kit.data.image_io import open_image
from gtsa_kit.evaluation.scenes import spread_index
from gtsa_kit.evaluation.support.figures import grid, save, show


def neighbors_picture(vectors: np.ndarray, paths: list[Path], out: Path, queries: int = 6, top: int = 5) -> None:
    """Draw a row for each of `queries` images: itself, then its `top` nearest by cosine of (N, D) embeddings."""
    chosen = spread_index(len(paths), queries)
    order, cosines = nearest(vectors, chosen, top)
    figure = grid(1 + order.shape[1], len(chosen), height=2.0)
    cells = iter(figure.axes)
    for row, query in enumerate(chosen):
        show(next(cells), open_image(paths[query]), "query")
        for index, cosine in zip(order[row], cosines[row], strict=True):
            show(next(cells), open_image(paths[index]), f"{cosine:.3f}")
    save(figure, out)


def nearest(vectors: np.ndarray, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and cosines, (Q, top) each, best first, of the nearest other rows of (N, D) centered vectors.

    Centering takes away what all images share, which would otherwise make every cosine nearly 1.
    """
    centered = vectors - vectors.mean(axis=0)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    cosines = unit[queries] @ unit.T
    cosines[np.arange(len(queries)), queries] = -2
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(top, len(vectors) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)
