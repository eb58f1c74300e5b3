"""Feature maps as colors: the first three principal components of all tokens of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.eval_images import EvalImages, fit_size, to_input_image
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.plots import image_grid, shorten, show_image
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.feature_colors import fit_color_basis
from gtsa_kit.figures import figure_style, save_figure
from gtsa_kit.models.pictures import to_picture
from gtsa_kit.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"explained": "variance in three components %"}
"""Heading of each column of the report's table, by key."""


def pca(
    models: Sequence[Model],
    paths: Sequence[Path],
    out: Path,
    long_side: int = 448,
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Draw images above their feature maps, a row for each model.

    All images of a model share one basis, so equal colors mean equal features across its images. The bases of further
    models are rotated so that their colors come as near as possible to those of the first one; see `fit_color_basis`.

    Args:
        models: Models to compare.
        paths: Images, one for each column; unreadable ones are skipped.
        out: Path of the figure.
        long_side: Longer side of the input, in pixels; the aspect ratio is kept, up to rounding to the patch size.
        on_progress: Progress callback.

    Raises:
        ValueError: No image can be read, or a model's features are not finite.
    """
    preprocessing = models[0].runner.preprocessing
    eval_images = EvalImages(paths, 0, on_progress, preprocessing)
    images: list[tuple[str, Image.Image]] = []
    maps: list[list[np.ndarray]] = [[] for _ in models]
    for item in eval_images:
        samples = to_input_image(item.pixels)
        image = to_picture(samples, preprocessing)
        images.append((item.path.name, image))
        for model, model_maps in zip(models, maps, strict=True):
            size = model.runner.nearest_size(*fit_size(*image.size, long_side, model.runner.manifest.patch))
            model_maps.append(model.runner(model.runner.prepare(samples, size)[None]).feature_map[0])
    colors: list[list[np.ndarray]] = []
    rows = []
    for model, model_maps in zip(models, maps, strict=True):
        basis = fit_color_basis(model_maps, like=colors[0] if colors else None)
        colors.append([basis.colors(feature_map) for feature_map in model_maps])
        rows.append({"model": model.name, "seed": 0, "explained": 100 * basis.explained})
    save_figure(draw_color_maps(images, {m.name: c for m, c in zip(models, colors, strict=True)}), out)
    title = f"principal components of the tokens of {len(images)} images"
    return Report("pca", title, MEASURES, rows, {"long_side": long_side} | eval_images.report_settings())


@figure_style()
def draw_color_maps(images: Sequence[tuple[str, Image.Image]], colors: dict[str, list[np.ndarray]]) -> "Figure":
    """Draw images with their names, and below them a row of color maps for each model.

    Args:
        images: Names and images.
        colors: Color maps (h, w, 3), 0 to 1, of the images, by model.
    """
    figure = image_grid(len(images), 1 + len(colors))
    for axis, (name, image) in zip(figure.axes, images, strict=False):
        show_image(axis, image, name=name)
    for row, (model, maps) in enumerate(colors.items(), start=1):
        axes = figure.axes[row * len(images) : (row + 1) * len(images)]
        axes[0].set_ylabel(shorten(model), fontsize=8)
        for axis, (_, image), color in zip(axes, images, maps, strict=True):
            # The map covers the image, whose aspect ratio the patches follow only up to rounding.
            axis.imshow(color, interpolation="nearest", extent=(0, image.width, image.height, 0))
    figure.suptitle("First three principal components of the patch tokens as red, green and blue")
    return figure
