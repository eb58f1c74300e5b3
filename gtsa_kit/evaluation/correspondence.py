"""Correspondence recall@r: nearest tokens across two views of an image, compared with the true correspondence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import augment_color, crop_and_rotate
from gtsa_kit.data.augmentation_params import sample_boxes
from gtsa_kit.evaluation.eval_images import EvalImage, EvalImages, coarsest_grid, common_size, encode
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.report import CHANCE, Report
from gtsa_kit.evaluation.support.statistics import mean_with_ci
from gtsa_kit.evaluation.support.tokens import cosine_matrix, patch_centers, patch_distance
from gtsa_kit.geometry import map_points_between_views
from gtsa_kit.progress import ProgressCallback, no_progress

CONDITIONS = {
    "crop": "crop",
    "rotation_90": "rotation 90°",
    "rotation_180": "rotation 180°",
    "rotation_270": "rotation 270°",
    "crop_rotation": "crop and rotation",
}
"""Heading of each condition (a transformation between the two views), by column."""
RADII = (0.5, 1.0, 2.0)
"""Radii, in patches, that every report contains."""


@dataclass(frozen=True)
class CorrespondenceOptions:
    """Options of the correspondence evaluation."""

    radius: float = 1.0
    """Largest distance of a correct match, in patches; the report contains the recall at each of `RADII` too."""
    color_augmentation: bool = False
    """True if the views also get the color augmentation of training."""
    min_overlap: float = 0.1
    """Smallest overlap of the two crops, as a fraction of the image area."""
    size: int | None = None
    """Side of the views, in pixels; None means the models' own size."""


class View(NamedTuple):
    """A rotated crop of an image."""

    box: Tensor
    """Crop box (x0, y0, x1, y1) in pixels of the image, (4,) float64."""
    rotation: int
    """Counter-clockwise rotation in multiples of 90 degrees, as rot90's k."""
    image: Tensor
    """Pixels of the view, (3, S, S) uint8."""


def correspondence(
    models: Sequence[Model],
    paths: Sequence[Path],
    options: CorrespondenceOptions = CorrespondenceOptions(),  # frozen
    seeds: Sequence[int] = (0,),
    on_progress: ProgressCallback = no_progress,
) -> Report:
    """Measure the correspondence recall@r of tokens, for a crop, a rotation, or both between two views.

    The query points are the patch centers of the first view that are visible in the second. The prediction for a point
    is the patch of the second view whose token has the highest cosine. It is correct if the center of that patch is at
    most `radius` patches, of the coarsest grid of the models, from the true position, by Chebyshev distance. Recall is
    computed for each image and averaged over images. The row `(chance)` is the expected recall of a uniformly random
    patch.

    Args:
        models: Models to compare; all get the same views.
        paths: Images; unreadable ones are skipped.
        options: Options of the views and of the recall.
        seeds: Seeds of the views.
        on_progress: Progress callback.

    Raises:
        ValueError: No image can be read, or the models share no size.
    """
    size = common_size(models, options.size)
    unit = coarsest_grid(models, size)
    radii = tuple(dict.fromkeys((*RADII, options.radius)))
    names = [*(model.name for model in models), CHANCE]
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        images = EvalImages(paths, seed, on_progress, models[0].runner.preprocessing)
        recalls: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in names}
        for image in images:
            views, pairs = sample_views(image, options, size)
            for model in models:
                maps = encode(model.runner, [view.image for view in views]).feature_map
                recalls[model.name].append(
                    {key: recall(maps[a], maps[b], views[a], views[b], radii, unit) for key, (a, b) in pairs.items()}
                )
            recalls[CHANCE].append(
                {key: chance_recall(views[a], views[b], unit, radii) for key, (a, b) in pairs.items()}
            )
        rows += [{"model": name, "seed": seed} | _columns(recalls[name], radii, options.radius) for name in names]
    settings = (
        asdict(options)
        | {"size": size, "grid": list(unit), "interval": "95%, normal, over images"}
        | images.report_settings()
    )
    title = f"correspondence recall@{options.radius:g} of {unit[0]} patches a side, {images.count} images"
    return Report("correspondence", title, {key: f"{name} %" for key, name in CONDITIONS.items()}, rows, settings)


def sample_views(
    image: EvalImage, options: CorrespondenceOptions, size: int
) -> tuple[list[View], Mapping[str, tuple[int, int]]]:
    """Sample the views of an image.

    Returns:
        The views, and for each condition the indices of its first and its second view.
    """
    colors = ViewsConfig()
    config = ViewsConfig(global_crops=2, local_crops=0, min_global_overlap=options.min_overlap)
    first, second = sample_boxes(image.pixels.shape[1], image.pixels.shape[2], config, image.generator)
    random_rotation = 1 + int(torch.randint(3, (), generator=image.generator))
    views = []
    for box, rotation in ((first, 0), (first, 1), (first, 2), (first, 3), (second, 0), (second, random_rotation)):
        pixels = crop_and_rotate(image.pixels, box.tolist(), rotation, size)
        if options.color_augmentation:
            pixels = augment_color(pixels, colors, image.generator, image.limits)
        views.append(View(box.double(), rotation, pixels))
    pairs = {
        "crop": (0, 4),
        "rotation_90": (0, 1),
        "rotation_180": (0, 2),
        "rotation_270": (0, 3),
        "crop_rotation": (0, 5),
    }
    return views, pairs


def recall(
    map_a: np.ndarray, map_b: np.ndarray, a: View, b: View, radii: Sequence[float], unit: tuple[int, int]
) -> np.ndarray:
    """Return the (radii,) recalls at each radius; NaN if no patch center of `a` is visible in `b`.

    Args:
        map_a, map_b: (D, h, w) feature maps of the two views.
        a, b: Views.
        radii: Radii in patches of `unit`.
        unit: Patch grid whose patches are the unit of distances.
    """
    grid = (map_b.shape[1], map_b.shape[2])
    index, truth = shared_points(a, b, (map_a.shape[1], map_a.shape[2]))
    prediction = cosine_matrix(map_a, map_b)[index].argmax(axis=1)
    return _recall_at(patch_distance(patch_centers(*grid).numpy()[prediction], truth, *unit), radii)


def chance_recall(a: View, b: View, grid: tuple[int, int], radii: Sequence[float]) -> np.ndarray:
    """Return the (radii,) expected recalls of a uniformly random patch of an (h, w) grid."""
    _, truth = shared_points(a, b, grid)
    return _recall_at(patch_distance(patch_centers(*grid).numpy()[None], truth[:, None], *grid), radii)


def shared_points(a: View, b: View, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Find the patches of `a`, on an (h, w) grid, whose centers are visible in `b`.

    Returns:
        Their (n,) indices, and the (n, 2) positions (x, y) of their centers in the unit square of `b`.
    """
    in_b = map_points_between_views(patch_centers(*grid), a.box, a.rotation, b.box, b.rotation).numpy()
    index = np.flatnonzero(((in_b >= 0) & (in_b <= 1)).all(axis=1))
    return index, in_b[index]


def _recall_at(distance: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    # Centers can be exactly half a patch apart, so the comparison has a tolerance.
    return np.array([(distance <= radius + 1e-6).mean() if distance.size else np.nan for radius in radii])


def _columns(recalls: list[dict[str, np.ndarray]], radii: Sequence[float], radius: float) -> dict[str, Any]:
    """Return the columns of a report row: means in percent over images, with an interval at the chosen radius."""
    row: dict[str, Any] = {}
    for key in CONDITIONS:
        for index, r in enumerate(radii):
            values = [100 * image_recalls[key][index] for image_recalls in recalls]
            if r == radius:
                row |= mean_with_ci(key, values)
            row |= {f"{key}_recall_at_{r:g}": mean_with_ci(key, values)[key]}
    return row
