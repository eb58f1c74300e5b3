"""Pictures that a person can judge: feature maps in colour, nearest neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.config import PATCH
from gtsa_kit.export import Runner
from gtsa_kit.files import atomic_write
from gtsa_kit.images import open_image, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def spread(paths: list[Path], count: int) -> list[Path]:
    """`count` paths, evenly spread over the list; all of a shorter one."""
    return [paths[i] for i in _spread_index(len(paths), count)]


def _spread_index(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))


def pca_picture(runner: Runner, paths: list[Path], out: Path, long_side: int = 448) -> None:
    """Draw photographs above their feature maps, coloured by the first three principal components of all tokens.

    One basis serves all photographs, so that like colours mean like features across them.

    Args:
        runner: Any.
        paths: Photographs, one a column; broken ones are left out.
        out: PNG.
        long_side: Pixels; photographs keep their aspect, to the nearest multiple of the patch.
    """
    images = [image for _, image in readable(paths)]
    if not images:
        raise ValueError(f"none of the {len(paths)} photographs can be read, first {paths[0]}")
    maps = []
    for image in images:
        size = runner.nearest_size(*fit_size(image.width, image.height, long_side))
        maps.append(runner(runner.prepare(image, size)[None]).feature_map[0])
    colours = pca_colours(maps)
    figure = _figure(len(images), 2, row_height=1.6)
    for column, (image, colour) in enumerate(zip(images, colours, strict=True)):
        _show(figure.axes[column], image)
        _show(figure.axes[len(images) + column], Image.fromarray((colour * 255).round().astype(np.uint8)))
    _save(figure, out)


def pca_colours(maps: list[np.ndarray]) -> list[np.ndarray]:
    """(D, h, w) maps to (h, w, 3) in 0..1: the first three components, each from its 2% to its 98% quantile."""
    tokens = np.concatenate([m.reshape(m.shape[0], -1).T for m in maps]).astype(np.float64)
    centred = tokens - tokens.mean(axis=0)
    _, basis = np.linalg.eigh(centred.T @ centred)
    scores = centred @ basis[:, :-4:-1]
    low, high = np.quantile(scores, [0.02, 0.98], axis=0)
    scaled = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    ends = np.cumsum([m.shape[1] * m.shape[2] for m in maps])[:-1]
    parts = np.split(scaled, ends)
    return [part.reshape(m.shape[1], m.shape[2], 3) for part, m in zip(parts, maps, strict=True)]


def neighbours_picture(vectors: np.ndarray, paths: list[Path], out: Path, queries: int = 6, top: int = 5) -> None:
    """Draw a row for each of `queries` photographs: itself, then its `top` nearest by cosine of (N, D) embeddings."""
    chosen = _spread_index(len(paths), queries)
    order, cosines = nearest(vectors, chosen, top)
    figure = _figure(1 + order.shape[1], len(chosen), row_height=2.0)
    cells = iter(figure.axes)
    for row, query in enumerate(chosen):
        _show(next(cells), open_image(paths[query]), "query")
        for index, cosine in zip(order[row], cosines[row], strict=True):
            _show(next(cells), open_image(paths[index]), f"{cosine:.3f}")
    _save(figure, out)


def nearest(vectors: np.ndarray, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and cosines, (Q, top) each, best first, of the nearest other rows of (N, D) centred vectors.

    Centring takes away what all photographs share, which would otherwise make every cosine nearly 1.
    """
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosines = unit[queries] @ unit.T
    cosines[np.arange(len(queries)), queries] = -2
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(top, len(vectors) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


def fit_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """(height, width) in multiples of the patch, the longer about `long_side`."""
    scale = long_side / max(width, height)
    return max(PATCH, round(height * scale / PATCH) * PATCH), max(PATCH, round(width * scale / PATCH) * PATCH)


def _figure(columns: int, rows: int, row_height: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * columns, row_height * rows), layout="constrained")
    figure.subplots(rows, columns, squeeze=False)
    return figure


def _show(axis: "Axes", image: Image.Image, title: str = "") -> None:
    axis.imshow(np.asarray(image), interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.axis("off")


def _save(figure: "Figure", out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        figure.savefig(file, format="png", dpi=110)
