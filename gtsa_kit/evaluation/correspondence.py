"""Whether the nearest token in another view is that of the same place: recall of places known by geometry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import augment_color, crop_and_rotate, sample_boxes
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.scenes import Scene, Scenes, common_size, encode
from gtsa_kit.evaluation.support.bar_charts import CHANCE
from gtsa_kit.evaluation.support.estimates import mean_with_ci
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.evaluation.support.tokens import cell_centers, cosines, patch_distance
from gtsa_kit.geometry import map_points_between_views
from gtsa_kit.progress import ProgressCallback, no_progress

CONDITIONS = {
    "crop": "crop",
    "turn_90": "turn 90°",
    "turn_180": "turn 180°",
    "turn_270": "turn 270°",
    "crop_turn": "crop and turn",
}
"""What lies between the two views, and what people read."""


@dataclass(frozen=True)
class Settings:
    """What is drawn, and what counts as found."""

    within: float = 1.0
    """Patches; the other radii of `RADII` are in the report too."""
    photometric: bool = False
    """Whether the views have training's photometric noise too."""
    min_overlap: float = 0.1
    """Of two crops, as a share of the image."""
    size: int | None = None
    """Side of the views; None: the models' own."""


RADII = (0.5, 1.0, 2.0)


class View(NamedTuple):
    """A crop of an image, turned."""

    box: Tensor
    """(4,) in pixels of the image."""
    turn: int
    image: Tensor
    """(3, S, S) uint8."""


def correspondence(
    models: Sequence[Model],
    paths: Sequence[Path],
    settings: Settings = Settings(),  # frozen
    seeds: Sequence[int] = (0,),
    tell: ProgressCallback = no_progress,
) -> Report:
    """Recall of places across views, by what lies between these: a crop, a quarter turn, both.

    The center of each cell of the first view that the second shows too is a point. Its place in the second is known;
    the cell there whose token has the highest cosine is the guess, and it is right if its center is at most `within`
    patches off, across and down. Shares are taken in each image, then averaged. The row `(chance)` is what a guess
    that is uniform over the cells would reach.

    Args:
        models: To compare; all see the same views.
        paths: Images; broken ones are left out.
        settings: What is drawn, and what counts.
        seeds: Of the views.
        tell: Told of the progress.

    Raises:
        ValueError: No image that can be read, or the models share no size.
    """
    size = common_size(models, settings.size)
    radii = tuple(dict.fromkeys((*RADII, settings.within)))
    names = [*(model.name for model in models), CHANCE]
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        scenes = Scenes(paths, seed, tell)
        found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in names}
        for scene in scenes:
            views, pairs = draw(scene, settings, size)
            for model in models:
                maps = encode(model.runner, [view.image for view in views]).feature_map
                found[model.name].append(
                    {key: recall(maps[a], maps[b], views[a], views[b], radii) for key, (a, b) in pairs.items()}
                )
            shape = maps.shape[2:]
            found[CHANCE].append({key: chance(views[a], views[b], shape, radii) for key, (a, b) in pairs.items()})
        rows += [{"model": name, "seed": seed} | _row(found[name], radii, settings.within) for name in names]
    about = asdict(settings) | {"size": size, "interval": "95%, normal, over images"} | scenes.settings()
    title = f"places found within {settings.within:g} patch of {size // 16}, {scenes.count} images"
    return Report("correspondence", title, {key: f"{said} %" for key, said in CONDITIONS.items()}, rows, about)


def draw(scene: Scene, settings: Settings, size: int) -> tuple[list[View], Mapping[str, tuple[int, int]]]:
    """The views of an image, and for each condition the places in them of its first and second view."""
    noise = ViewsConfig()
    config = ViewsConfig(global_crops=2, local_crops=0, min_global_overlap=settings.min_overlap)
    first, second = sample_boxes(scene.pixels.shape[1], scene.pixels.shape[2], config, scene.generator)
    turn = 1 + int(torch.randint(3, (), generator=scene.generator))
    views = []
    for box, turns in ((first, 0), (first, 1), (first, 2), (first, 3), (second, 0), (second, turn)):
        image = crop_and_rotate(scene.pixels, box.tolist(), turns, size)
        image = augment_color(image, noise, scene.generator) if settings.photometric else image
        views.append(View(box.double(), turns, image))
    return views, {"crop": (0, 4), "turn_90": (0, 1), "turn_180": (0, 2), "turn_270": (0, 3), "crop_turn": (0, 5)}


def recall(map_a: np.ndarray, map_b: np.ndarray, a: View, b: View, radii: Sequence[float]) -> np.ndarray:
    """(radii,) shares of the points that are found; NaN if the views share no cell's center.

    Args:
        map_a, map_b: (D, h, w) of the two views.
        a, b: The views.
        radii: In patches.
    """
    shape = (map_b.shape[1], map_b.shape[2])
    index, truth = points(a, b, (map_a.shape[1], map_a.shape[2]))
    guess = cosines(map_a, map_b)[index].argmax(axis=1)
    return _shares(patch_distance(cell_centers(*shape).numpy()[guess], truth, *shape), radii)


def chance(a: View, b: View, shape: tuple[int, int], radii: Sequence[float]) -> np.ndarray:
    """(radii,) expected shares for a guess that is uniform over the cells of (h, w)."""
    _, truth = points(a, b, shape)
    return _shares(patch_distance(cell_centers(*shape).numpy()[None], truth[:, None], *shape), radii)


def points(a: View, b: View, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) of the cells of `a` whose centers `b` shows, and where: (n, 2), x and y in its unit square."""
    there = map_points_between_views(cell_centers(*shape), a.box, a.turn, b.box, b.turn).numpy()
    index = np.flatnonzero(((there >= 0) & (there <= 1)).all(axis=1))
    return index, there[index]


def _shares(apart: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    """The tolerance: half a patch is an edge that centers of cells lie on."""
    return np.array([(apart <= radius + 1e-6).mean() if apart.size else np.nan for radius in radii])


def _row(found: list[dict[str, np.ndarray]], radii: Sequence[float], within: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key in CONDITIONS:
        for place, radius in enumerate(radii):
            values = [100 * shares[key][place] for shares in found]
            if radius == within:
                row |= mean_with_ci(key, values)
            row |= {f"{key}_within_{radius:g}": mean_with_ci(key, values)[key]}
    return row
