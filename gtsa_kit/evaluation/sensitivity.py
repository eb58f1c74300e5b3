"""How far features move when an image is recolored, turned or cropped: the paper's figure 2."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import augment_color, crop_and_rotate, sample_box
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.scenes import Scene, Scenes, common_size, encode
from gtsa_kit.evaluation.support.estimates import mean_with_ci
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback, no_progress

ONLY_COLOR = ViewsConfig(jitter_p=1.0, grayscale_p=0.0, blur_p=0.0, noise_std=0.0)
ONLY_BLUR = ViewsConfig(jitter_p=0.0, grayscale_p=0.0, blur_p=1.0, noise_std=0.0)


def _recolored(scene: Scene, size: int, generator: Generator) -> Tensor:
    return augment_color(crop_and_rotate(scene.pixels, scene.whole, 0, size), ONLY_COLOR, generator)


def _blurred(scene: Scene, size: int, generator: Generator) -> Tensor:
    return augment_color(crop_and_rotate(scene.pixels, scene.whole, 0, size), ONLY_BLUR, generator)


def _turned(scene: Scene, size: int, generator: Generator) -> Tensor:
    turn = int(torch.randint(4, (), generator=generator))
    return crop_and_rotate(scene.pixels, scene.whole, turn, size)


def _cropped(scene: Scene, size: int, generator: Generator) -> Tensor:
    config = ViewsConfig()
    box = sample_box(scene.pixels.shape[1], scene.pixels.shape[2], config.global_area, config.aspect, generator)
    return crop_and_rotate(scene.pixels, box.tolist(), 0, size)


TRANSFORMATIONS: Mapping[str, Callable[[Scene, int, Generator], Tensor]] = {
    "color": _recolored,
    "turn": _turned,
    "crop": _cropped,
    "blur": _blurred,
}
"""Each as in the method's global views: jitter in full strength, a uniform quarter turn, 30 to 100% of the area."""


@dataclass(frozen=True)
class Settings:
    """What is drawn."""

    transformations: tuple[str, ...] = ("color", "turn", "crop")
    """One at a time, of `TRANSFORMATIONS`."""
    views: int = 10
    """Of each image under each of them."""
    size: int | None = None
    """Side of the views; None: the models' own."""

    def __post_init__(self) -> None:
        """Refuse what can't be measured."""
        unknown = [name for name in self.transformations if name not in TRANSFORMATIONS]
        if unknown or not self.transformations:
            raise ValueError(f"unknown transformation {''.join(unknown[:1])!r}; choose of {', '.join(TRANSFORMATIONS)}")
        if self.views < 2:
            raise ValueError(f"a variance needs at least 2 views, got {self.views}")


def sensitivity(
    models: Sequence[Model],
    paths: Sequence[Path],
    settings: Settings = Settings(),  # frozen
    seeds: Sequence[int] = (0,),
    tell: ProgressCallback = no_progress,
) -> Report:
    """Variance of the pooled output over views by one transformation at a time, mean over images.

    It is given as a share of the model's variance over the untransformed images, so that neither the scale nor the
    offset of a model's features counts: 0% does not move at all, 100% moves as far as from one image to another.
    Variances are sums over dimensions, with n - 1. The intervals are over images, the denominator taken as given.

    Args:
        models: To compare; all see the same views.
        paths: Images, at least two that can be read; broken ones are left out.
        settings: What is drawn.
        seeds: Of the views.
        tell: Told of the progress.

    Raises:
        ValueError: Fewer than two images, or the models share no size.
    """
    size = common_size(models, settings.size)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        scenes = Scenes(paths, seed, tell)
        moved: dict[str, list[list[float]]] = {model.name: [] for model in models}
        plain: dict[str, list[np.ndarray]] = {model.name: [] for model in models}
        for scene in scenes:
            views = draw(scene, settings, size)
            for model in models:
                vectors = encode(model.runner, [crop_and_rotate(scene.pixels, scene.whole, 0, size), *views]).embedding
                plain[model.name].append(vectors[0])
                sets = vectors[1:].reshape(-1, settings.views, vectors.shape[1])
                moved[model.name].append(sets.var(axis=1, ddof=1).sum(axis=1).tolist())
        if scenes.count < 2:
            raise ValueError("only one image can be read; a variance over images needs at least two")
        for model in models:
            rows.append({"model": model.name, "seed": seed} | _row(plain[model.name], moved[model.name], settings))
    measures = {name: f"{name} %" for name in settings.transformations}
    about = asdict(settings) | {"size": size, "interval": "95%, normal, over images"} | scenes.settings()
    title = f"variance over {settings.views} views, of that over {scenes.count} images"
    return Report("sensitivity", title, measures, rows, about)


def draw(scene: Scene, settings: Settings, size: int) -> list[Tensor]:
    """Views (3, size, size) uint8, `settings.views` of each transformation in turn."""
    return [
        TRANSFORMATIONS[name](scene, size, scene.generator)
        for name in settings.transformations
        for _ in range(settings.views)
    ]


def _row(plain: list[np.ndarray], moved: list[list[float]], settings: Settings) -> dict[str, Any]:
    vectors, variances = np.stack(plain), np.array(moved)  # (N, D), (N, transformations)
    between = float(vectors.var(axis=0, ddof=1).sum())
    # Where all images give the same but for rounding there is nothing to compare with.
    shares = (
        100 * variances / between if between > 1e-12 * float((vectors**2).sum(axis=1).mean()) else variances * np.nan
    )
    row: dict[str, Any] = {"variance_images": between}
    for place, name in enumerate(settings.transformations):
        row |= mean_with_ci(name, shares[:, place])
        row[f"{name}_variance"] = float(variances[:, place].mean())
    return row
