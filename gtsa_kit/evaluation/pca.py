"""Feature maps as colors: the first three principal components of all tokens of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.scenes import Scenes, to_image
from gtsa_kit.evaluation.support.figures import grid, save, show
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.models.encoder import nearest_side
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {"explained": "variance in three components %"}


class Components(NamedTuple):
    """The first three."""

    colors: list[np.ndarray]
    """(h, w, 3) in 0..1 of each map."""
    explained: float
    """Share of the variance that they hold."""


def pca(
    models: Sequence[Model],
    paths: Sequence[Path],
    out: Path,
    long_side: int = 448,
    tell: ProgressCallback = no_progress,
) -> Report:
    """Draw images above their feature maps, a row for each model.

    One basis serves all images of a model, so that like colors mean like features across them; between models
    colors mean nothing.

    Args:
        models: To compare.
        paths: Images, one a column; broken ones are left out.
        out: PNG.
        long_side: Pixels; images keep their aspect, to the nearest multiple of the patch.
        tell: Told of the progress.

    Raises:
        ValueError: No image that can be read.
    """
    scenes, images = Scenes(paths, 0, tell), []
    maps: list[list[np.ndarray]] = [[] for _ in models]
    for scene in scenes:
        images.append(to_image(scene.pixels))
        for model, own in zip(models, maps, strict=True):
            size = model.runner.nearest_size(*fit_size(*images[-1].size, long_side))
            own.append(model.runner(model.runner.prepare(images[-1], size)[None]).feature_map[0])
    found = [components(own) for own in maps]
    _draw(images, [model.name for model in models], found, out)
    rows = [
        {"model": model.name, "seed": 0, "explained": 100 * components_.explained}
        for model, components_ in zip(models, found, strict=True)
    ]
    title = f"principal components of the tokens of {len(images)} images"
    return Report("pca", title, MEASURES, rows, {"long_side": long_side} | scenes.settings())


def components(maps: list[np.ndarray]) -> Components:
    """Of (D, h, w) maps together; each component is shown from its 2% to its 98% quantile."""
    tokens = np.concatenate([m.reshape(m.shape[0], -1).T for m in maps]).astype(np.float64)
    centered = tokens - tokens.mean(axis=0)
    variances, basis = np.linalg.eigh(centered.T @ centered)
    scores = centered @ basis[:, :-4:-1]
    low, high = np.quantile(scores, [0.02, 0.98], axis=0)
    scaled = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    parts = np.split(scaled, np.cumsum([m.shape[1] * m.shape[2] for m in maps])[:-1])
    colors = [part.reshape(m.shape[1], m.shape[2], 3) for part, m in zip(parts, maps, strict=True)]
    return Components(colors, float(variances[-3:].sum() / max(variances.sum(), 1e-300)))


def fit_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """(height, width) in multiples of the patch, the longer about `long_side`."""
    scale = long_side / max(width, height)
    return nearest_side(height * scale), nearest_side(width * scale)


def _draw(images: list[Image.Image], names: list[str], found: list[Components], out: Path) -> None:
    figure = grid(len(images), 1 + len(names))
    rows = [images]
    for own in found:
        rows.append([Image.fromarray((color * 255).round().astype(np.uint8)) for color in own.colors])
    for axis, image in zip(figure.axes, [image for row in rows for image in row], strict=True):
        show(axis, image)
    for axis, name in zip(figure.axes[len(images) :: len(images)], names, strict=True):
        axis.set_title(name, fontsize=8, loc="left")
    save(figure, out)
