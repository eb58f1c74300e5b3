"""Feature maps as colors: the first three principal components of all tokens of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.eval_images import EvalImages, fit_size, to_image
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.plots import image_grid, save_figure, show_image
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback, no_progress

MEASURES = {"explained": "variance in three components %"}
"""Heading of each column of the report's table, by key."""


class PrincipalComponents(NamedTuple):
    """The first three principal components of feature maps."""

    colors: list[np.ndarray]
    """Components of each map as RGB, (h, w, 3), 0 to 1."""
    explained: float
    """Fraction of the variance in these components, 0 to 1."""


def pca(
    models: Sequence[Model],
    paths: Sequence[Path],
    out: Path,
    long_side: int = 448,
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Draw images above their feature maps, a row for each model.

    All images of a model share one basis, so equal colors mean equal features across its images. Colors of different
    models cannot be compared.

    Args:
        models: Models to compare.
        paths: Images, one for each column; unreadable ones are skipped.
        out: Path of the PNG.
        long_side: Longer side of the input, in pixels; the aspect ratio is kept, up to rounding to the patch size.
        on_progress: Progress callback.

    Raises:
        ValueError: No image can be read.
    """
    eval_images, images = EvalImages(paths, 0, on_progress), []
    maps: list[list[np.ndarray]] = [[] for _ in models]
    for item in eval_images:
        images.append(to_image(item.pixels))
        for model, model_maps in zip(models, maps, strict=True):
            size = model.runner.nearest_size(*fit_size(*images[-1].size, long_side))
            model_maps.append(model.runner(model.runner.prepare(images[-1], size)[None]).feature_map[0])
    components = [principal_components(model_maps) for model_maps in maps]
    _draw(images, [model.name for model in models], components, out)
    rows = [
        {"model": model.name, "seed": 0, "explained": 100 * model_components.explained}
        for model, model_components in zip(models, components, strict=True)
    ]
    title = f"principal components of the tokens of {len(images)} images"
    return Report("pca", title, MEASURES, rows, {"long_side": long_side} | eval_images.report_settings())


def principal_components(maps: list[np.ndarray]) -> PrincipalComponents:
    """Compute the first three principal components of all tokens of (D, h, w) maps.

    Each component is scaled to 0 to 1 between its 2% and its 98% quantile.
    """
    tokens = np.concatenate([m.reshape(m.shape[0], -1).T for m in maps]).astype(np.float64)
    centered = tokens - tokens.mean(axis=0)
    variances, basis = np.linalg.eigh(centered.T @ centered)
    scores = centered @ basis[:, :-4:-1]
    low, high = np.quantile(scores, [0.02, 0.98], axis=0)
    scaled = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    parts = np.split(scaled, np.cumsum([m.shape[1] * m.shape[2] for m in maps])[:-1])
    colors = [part.reshape(m.shape[1], m.shape[2], 3) for part, m in zip(parts, maps, strict=True)]
    return PrincipalComponents(colors, float(variances[-3:].sum() / max(variances.sum(), 1e-300)))


def _draw(images: list[Image.Image], names: list[str], components: list[PrincipalComponents], out: Path) -> None:
    figure = image_grid(len(images), 1 + len(names))
    rows = [images]
    for model_components in components:
        rows.append([Image.fromarray((color * 255).round().astype(np.uint8)) for color in model_components.colors])
    for axis, image in zip(figure.axes, [image for row in rows for image in row], strict=True):
        show_image(axis, image)
    for axis, name in zip(figure.axes[len(images) :: len(images)], names, strict=True):
        axis.set_title(name, fontsize=8, loc="left")
    save_figure(figure, out)
