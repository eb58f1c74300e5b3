"""Figure of the nearest neighbors of some images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.eval_images import evenly_spaced_indices
from gtsa_kit.evaluation.support.plots import image_grid, shorten, show_image
from gtsa_kit.figures import figure_style
from gtsa_kit.models.channel_images import read_input
from gtsa_kit.models.pictures import to_picture
from gtsa_kit.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finite_vectors(
    vectors: Mapping[str, np.ndarray], paths: Sequence[Path]
) -> tuple[dict[str, np.ndarray], list[Path], list[Path]]:
    """Leave out the images that have NaN or infinity in a vector; one of them would make every cosine NaN.

    Args:
        vectors: (N, D) embeddings by name of the model.
        paths: N images.

    Returns:
        The other vectors and images, and the images that are left out.

    Raises:
        ValueError: Every image is left out.
    """
    finite = np.all([np.isfinite(embeddings).all(axis=1) for embeddings in vectors.values()], axis=0)
    if not finite.any():
        raise ValueError("all vectors hold NaN or infinity; check the model with gtsa verify")
    kept = [path for path, is_finite in zip(paths, finite, strict=True) if is_finite]
    skipped = [path for path, is_finite in zip(paths, finite, strict=True) if not is_finite]
    return {name: embeddings[finite] for name, embeddings in vectors.items()}, kept, skipped


@figure_style()
def draw_neighbors(
    vectors: Mapping[str, np.ndarray],
    paths: Sequence[Path],
    queries: int = 6,
    top: int = 5,
    preprocessing: Preprocessing | None = None,
) -> "Figure":
    """Draw a row for each query image and model: the query, then its nearest neighbors with their cosines.

    Args:
        vectors: (N, D) embeddings, all finite, by name of the model.
        paths: N images.
        queries: Number of query images, evenly spaced over the list.
        top: Number of neighbors of each.
        preprocessing: Preprocessing of the models, which says how images are read; None for 8-bit RGB.

    Raises:
        ValueError: There are fewer than two images.
    """
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} image has no neighbors; give at least two readable images")
    stated, query_indices = preprocessing or Preprocessing(), evenly_spaced_indices(len(paths), queries)
    nearest = {name: nearest_neighbors(embeddings, query_indices, top) for name, embeddings in vectors.items()}
    figure = image_grid(1 + min(top, len(paths) - 1), len(query_indices) * len(vectors), width=1.6, height=1.65)
    axes = iter(figure.axes)
    for row, query in enumerate(query_indices):
        for number, (name, (neighbors, cosines)) in enumerate(nearest.items()):
            axis = next(axes)
            axis.set_ylabel(shorten(name, 22), fontsize=8)
            if not number:
                show_image(axis, _picture(paths[query], stated), "query", _name(paths[query]))
            for index, cosine in zip(neighbors[row], cosines[row], strict=True):
                title = f"cosine {cosine:.3f}"
                show_image(next(axes), _picture(paths[index], stated), title, _name(paths[index]))
    return figure


def _picture(path: Path, preprocessing: Preprocessing) -> Image.Image:
    return to_picture(read_input(path, preprocessing), preprocessing)


def list_neighbors(
    vectors: Mapping[str, np.ndarray], paths: Sequence[Path], queries: int = 6, top: int = 5
) -> list[dict[str, Any]]:
    """Return what `draw_neighbors` draws as data: a row for each query image and model.

    Args:
        vectors: (N, D) embeddings, all finite, by name of the model.
        paths: N images.
        queries: Number of query images, evenly spaced over the list.
        top: Number of neighbors of each.
    """
    indices = evenly_spaced_indices(len(paths), queries)
    rows = []
    for name, embeddings in vectors.items():
        for query, neighbors, cosines in zip(indices, *nearest_neighbors(embeddings, indices, top), strict=True):
            nearest = [
                {"image": str(paths[index]), "cosine": float(cosine)}
                for index, cosine in zip(neighbors, cosines, strict=True)
            ]
            rows.append({"image": str(paths[query]), "model": name, "neighbors": nearest})
    return rows


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


def _name(path: Path) -> str:
    """Return the folder and the name of an image: folders are often classes."""
    return shorten("/".join(path.parts[-2:]), 24)
