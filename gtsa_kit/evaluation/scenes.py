"""Images whose views are evaluated: each is read once, with random numbers of its own, for all models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.data.multicrop import derive_seed
from gtsa_kit.evaluation.models import Model
from gtsa_kit.export import Runner
from gtsa_kit.export.runtime.batching import run_in_batches
from gtsa_kit.models.encoder import Features, nearest_side
from gtsa_kit.progress import ProgressCallback, no_progress

MOST_AT_ONCE = 8
"""Views that a model takes at a time."""
_STREAM = 7
"""Sets these random numbers apart from those of training under the same seed."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Scene:
    """One image that could be read."""

    place: int
    """In the list."""
    path: Path
    pixels: Tensor
    """(3, H, W) uint8, upright."""
    generator: Generator
    """Its own: what is drawn depends on the seed and its place in the list, not on other files nor on the models."""

    @property
    def whole(self) -> list[int]:
        """The crop that is all of it."""
        return [0, 0, self.pixels.shape[2], self.pixels.shape[1]]


@dataclass
class Scenes:
    """Goes over listed images; afterwards it knows how many there were, and what was broken."""

    paths: Sequence[Path]
    seed: int
    tell: ProgressCallback = no_progress
    skipped: list[ImageError] = field(default_factory=list)
    count: int = 0

    def __iter__(self) -> Iterator[Scene]:
        """Raises `ValueError` after the last if there was none that could be read."""
        self.skipped, self.count = [], 0
        for place, path in enumerate(self.paths):
            try:
                pixels = torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1)
            except ImageError as error:
                self.skipped.append(error)
            else:
                self.count += 1
                yield Scene(place, path, pixels, Generator().manual_seed(derive_seed(self.seed, _STREAM, place)))
            self.tell(f"images, seed {self.seed}", place + 1, len(self.paths))
        if not self.count:
            first = f", first {self.skipped[0]}" if self.skipped else ""
            raise ValueError(f"none of the {len(self.paths)} images can be read{first}")

    def settings(self) -> dict[str, Any]:
        """For a report."""
        broken = [{"path": str(error.path), "reason": error.reason} for error in self.skipped]
        return {"images": self.count, "skipped": broken}


def common_size(models: Sequence[Model], size: int | None) -> int:
    """Side of the square views that all models take: `size`, or the first own size of a model that the others take too.

    Raises:
        ValueError: There is none.
    """
    own = [(model.runner, model.runner.preprocessing.size) for model in models]
    sides = [nearest_side(size)] if size else [runner.nearest_size(side, side)[0] for runner, side in own]
    for side in sides:
        if all(model.runner.nearest_size(side, side) == (side, side) for model in models):
            return side
    nearest = {model.name: model.runner.nearest_size(sides[0], sides[0]) for model in models}
    taken = ", ".join(f"{name} takes {height} x {width}" for name, (height, width) in nearest.items())
    raise ValueError(f"not every model takes {sides[0]} x {sides[0]} ({taken}); choose a --size that all take")


def encode(runner: Runner, views: Sequence[Tensor]) -> Features:
    """Features, float64, of (3, S, S) uint8 views, through the model's own preprocessing."""
    inputs = np.stack([runner.prepare(to_image(view), (view.shape[1], view.shape[2])) for view in views])
    features = run_in_batches(runner, inputs, MOST_AT_ONCE)
    return Features(features.embedding.astype(np.float64), features.feature_map.astype(np.float64))


def to_image(view: Tensor) -> Image.Image:
    """Of a (3, H, W) uint8 tensor."""
    return Image.fromarray(view.permute(1, 2, 0).numpy())


def spread(paths: Sequence[Item], count: int) -> list[Item]:
    """`count` items, evenly spread over the list; all of a shorter one."""
    return [paths[i] for i in spread_index(len(paths), count)]


def spread_index(length: int, count: int) -> np.ndarray:
    """Places of `count` items, evenly spread over `length`; all of fewer."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
