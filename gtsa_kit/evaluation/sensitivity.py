"""Sensitivity of features to color changes, rotations and crops: figure 2 of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import augment_color, crop_and_rotate
from gtsa_kit.data.augmentation_params import sample_box
from gtsa_kit.evaluation.eval_images import EvalImage, EvalImages, common_size, encode
from gtsa_kit.evaluation.models import Model, embedding_settings
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.statistics import mean_with_ci
from gtsa_kit.progress import ProgressCallback, no_progress

ONLY_COLOR = ViewsConfig(jitter_p=1.0, grayscale_p=0.0, blur_p=0.0, noise_std=0.0)
"""Color jitter in every view, and no other color augmentation."""
ONLY_BLUR = ViewsConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=1.0, noise_std=0.0)
"""Blur in every view, and no other color augmentation."""


def _color(image: EvalImage, size: int, generator: Generator) -> Tensor:
    return augment_color(crop_and_rotate(image.pixels, image.full_box, 0, size), ONLY_COLOR, generator, image.limits)


def _blur(image: EvalImage, size: int, generator: Generator) -> Tensor:
    return augment_color(crop_and_rotate(image.pixels, image.full_box, 0, size), ONLY_BLUR, generator, image.limits)


def _rotation(image: EvalImage, size: int, generator: Generator) -> Tensor:
    k = int(torch.randint(4, (), generator=generator))
    return crop_and_rotate(image.pixels, image.full_box, k, size)


def _crop(image: EvalImage, size: int, generator: Generator) -> Tensor:
    config = ViewsConfig()
    box = sample_box(image.pixels.shape[1], image.pixels.shape[2], config.global_area, config.aspect, generator)
    return crop_and_rotate(image.pixels, box.tolist(), 0, size)


TRANSFORMATIONS: Mapping[str, Callable[[EvalImage, int, Generator], Tensor]] = {
    "color": _color,
    "rotation": _rotation,
    "crop": _crop,
    "blur": _blur,
}
"""Random transformations by name, with the strengths of the method's global views: color jitter, rotation by a uniform
multiple of 90 degrees, crops of 30 to 100% of the area, blur."""


@dataclass(frozen=True)
class SensitivityOptions:
    """Options of the sensitivity evaluation."""

    transformations: tuple[str, ...] = ("color", "rotation", "crop")
    """Names of the `TRANSFORMATIONS` to measure, each on its own."""
    views: int = 10
    """Number of views of each image under each transformation."""
    size: int | None = None
    """Side of the views, in pixels; None means the models' own size."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for an unknown transformation or too few views."""
        unknown = [name for name in self.transformations if name not in TRANSFORMATIONS]
        if unknown or not self.transformations:
            raise ValueError(
                f"unknown transformation {''.join(unknown[:1])!r}; choose from {', '.join(TRANSFORMATIONS)}"
            )
        if self.views < 2:
            raise ValueError(f"a variance needs at least 2 views, got {self.views}")


def sensitivity(
    models: Sequence[Model],
    paths: Sequence[Path],
    options: SensitivityOptions = SensitivityOptions(),  # frozen
    seeds: Sequence[int] = (0,),
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Measure the variance of the embedding over views by one transformation, averaged over images.

    The variance is a percentage of the model's variance over the untransformed images, so the scale and the offset of
    the features do not matter: 0% means invariant, 100% means as different as two images. Variances are summed over
    dimensions, with n - 1 in the denominator. The intervals are over images; the variance over images is taken as
    exact.

    Args:
        models: Models to compare; all get the same views.
        paths: Images, at least two of them readable; unreadable ones are skipped.
        options: Options of the views.
        seeds: Seeds of the views.
        on_progress: Progress callback.

    Raises:
        ValueError: Fewer than two images can be read, or the models share no size.
    """
    size = common_size(models, options.size)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        images = EvalImages(paths, seed, on_progress, models[0].runner.preprocessing)
        variances: dict[str, list[list[float]]] = {model.name: [] for model in models}
        untransformed: dict[str, list[np.ndarray]] = {model.name: [] for model in models}
        for image in images:
            views = [crop_and_rotate(image.pixels, image.full_box, 0, size), *sample_views(image, options, size)]
            for model in models:
                vectors = encode(model.runner, views).embedding
                untransformed[model.name].append(vectors[0])
                sets = vectors[1:].reshape(-1, options.views, vectors.shape[1])
                variances[model.name].append(sets.var(axis=1, ddof=1).sum(axis=1).tolist())
        if images.count < 2:
            raise ValueError("only one image can be read; a variance over images needs at least two")
        for model in models:
            columns = _columns(untransformed[model.name], variances[model.name], options)
            rows.append({"model": model.name, "seed": seed} | columns)
    measures = {name: f"{name} %" for name in options.transformations}
    settings = asdict(options) | {"size": size, "interval": "95%, normal, over images"} | images.report_settings()
    settings |= embedding_settings(models)
    title = f"variance over {options.views} views, of that over {images.count} images"
    return Report("sensitivity", title, measures, rows, settings)


def sample_views(image: EvalImage, options: SensitivityOptions, size: int) -> list[Tensor]:
    """Sample `options.views` views of each transformation in turn, (3, size, size) uint8 or (N, size, size) float32."""
    return [
        TRANSFORMATIONS[name](image, size, image.generator)
        for name in options.transformations
        for _ in range(options.views)
    ]


def _columns(
    untransformed: list[np.ndarray], variances: list[list[float]], options: SensitivityOptions
) -> dict[str, Any]:
    """Return the columns of a report row from the (D,) vectors and the variances by transformation of each image."""
    vectors, view_variances = np.stack(untransformed), np.array(variances)  # (N, D), (N, transformations)
    between = float(vectors.var(axis=0, ddof=1).sum())
    # If all images have the same embedding up to rounding, there is no variance to divide by.
    comparable = between > 1e-12 * float((vectors**2).sum(axis=1).mean())
    percentages = 100 * view_variances / between if comparable else view_variances * np.nan
    row: dict[str, Any] = {"variance_images": between}
    for index, name in enumerate(options.transformations):
        row |= mean_with_ci(name, percentages[:, index])
        row[f"{name}_variance"] = float(view_variances[:, index].mean())
    return row
