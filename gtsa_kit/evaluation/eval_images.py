"""Images to evaluate on, each with its own random generator, and the encoding of their views."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from gtsa_kit.data.channels.value_range import ChannelRange
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.samples import derive_seed
from gtsa_kit.evaluation.models import Model
from gtsa_kit.export import Runner
from gtsa_kit.export.runtime.batching import run_in_batches
from gtsa_kit.models.channel_images import channel_range, read_input
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.preprocessing import InputImage, Preprocessing
from gtsa_kit.models.sizes import nearest_side
from gtsa_kit.progress import ProgressCallback, no_progress

MAX_BATCH = 8
"""Maximum number of views that `encode` passes to a model at a time."""
_STREAM = 7
"""Stream number that separates these random numbers from those of training under the same seed."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class EvalImage:
    """One readable image of an evaluation."""

    index: int
    """Index in the list of paths."""
    path: Path
    pixels: Tensor
    """Upright image, (3, H, W) uint8; of other channels (N, H, W) float32."""
    generator: Generator
    """Random generator of this image: its numbers depend on the seed and the index, not on other images or models."""
    limits: ChannelRange | None = None
    """Range of each channel; None for 8-bit RGB."""

    @property
    def full_box(self) -> list[int]:
        """Crop box (x0, y0, x1, y1) of the whole image, in pixels."""
        return [0, 0, self.pixels.shape[2], self.pixels.shape[1]]


@dataclass
class EvalImages:
    """Iterable over the readable images of a list. After an iteration, it holds their count and the skipped files."""

    paths: Sequence[Path]
    seed: int
    on_progress: ProgressCallback = no_progress
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Preprocessing of the models, which says how images are read."""
    skipped: list[ImageError] = field(default_factory=list)
    count: int = 0

    def __iter__(self) -> Iterator[EvalImage]:
        """Yield the readable images; raise `ValueError` at the end if there was none."""
        self.skipped, self.count = [], 0
        for index, path in enumerate(self.paths):
            try:
                pixels = torch.from_numpy(np.array(read_input(path, self.preprocessing))).permute(2, 0, 1)
            except ImageError as error:
                self.skipped.append(error)
            else:
                self.count += 1
                generator = Generator().manual_seed(derive_seed(self.seed, _STREAM, index))
                yield EvalImage(index, path, pixels, generator, channel_range(self.preprocessing))
            self.on_progress(f"images, seed {self.seed}", index + 1, len(self.paths))
        if not self.count:
            first = f", first {self.skipped[0]}" if self.skipped else ""
            raise ValueError(f"none of the {len(self.paths)} images can be read{first}")

    def report_settings(self) -> dict[str, Any]:
        """Return the number of images and the skipped files, for the settings of a report."""
        skipped = [{"path": str(error.path), "reason": error.reason} for error in self.skipped]
        return {"images": self.count, "skipped": skipped}


def common_size(models: Sequence[Model], size: int | None) -> int:
    """Return the side, in pixels, of square views that all models accept.

    Args:
        models: Models to compare.
        size: Requested side, in pixels; None means the first of the models' own sizes that all models accept.

    Raises:
        ValueError: There is no such size.
    """
    own_sizes = [(model.runner, model.runner.preprocessing.size) for model in models]
    patch = math.lcm(*(model.runner.manifest.patch for model in models))
    sides = [nearest_side(size, patch)] if size else [runner.nearest_size(side, side)[0] for runner, side in own_sizes]
    for side in sides:
        if all(model.runner.nearest_size(side, side) == (side, side) for model in models):
            return side
    nearest = {model.name: model.runner.nearest_size(sides[0], sides[0]) for model in models}
    accepted = ", ".join(f"{name} accepts {height} x {width}" for name, (height, width) in nearest.items())
    raise ValueError(f"not every model accepts {sides[0]} x {sides[0]} ({accepted}); choose a --size that all accept")


def coarsest_grid(models: Sequence[Model], size: int) -> tuple[int, int]:
    """Return the (h, w) patch grid of square views with the fewest patches, whose patches are the unit of distances."""
    patches = size // max(model.runner.manifest.patch for model in models)
    return patches, patches


def fit_size(width: int, height: int, long_side: int, patch: int) -> tuple[int, int]:
    """Return (height, width) near an image's aspect ratio, the longer near `long_side`; multiples of the patch size."""
    scale = long_side / max(width, height)
    return nearest_side(height * scale, patch), nearest_side(width * scale, patch)


def encode(runner: Runner, views: Sequence[Tensor]) -> Features:
    """Encode (3, S, S) uint8 views, or (N, S, S) float32 ones, with the model's own preprocessing.

    Returns:
        float64 features: embeddings (V, D) and feature maps (V, D, h, w) of V views.
    """
    inputs = np.stack([runner.prepare(to_input_image(view), (view.shape[1], view.shape[2])) for view in views])
    features = run_in_batches(runner, inputs, MAX_BATCH)
    return Features(features.embedding.astype(np.float64), features.feature_map.astype(np.float64))


def to_image(view: Tensor) -> Image.Image:
    """Convert a (3, H, W) uint8 tensor to a Pillow image."""
    return Image.fromarray(view.permute(1, 2, 0).numpy())


def to_input_image(view: Tensor) -> InputImage:
    """Convert a (3, H, W) uint8 tensor to a Pillow image, and (N, H, W) float32 to samples (H, W, N)."""
    return to_image(view) if view.dtype == torch.uint8 else view.permute(1, 2, 0).numpy()


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` evenly spaced items of a list, or all items of a shorter one."""
    return [items[i] for i in evenly_spaced_indices(len(items), count)]


def evenly_spaced_indices(length: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced indices below `length`, or all of them if there are fewer."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
