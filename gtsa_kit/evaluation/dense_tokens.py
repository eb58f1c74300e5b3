"""Patch tokens of images or of tiles of them, computed once for each model and kept, beside what they show."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gtsa_kit.config import PATCH
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import open_image
from gtsa_kit.data.labeled_masks import Pair, SegmentationDataset, boxes
from gtsa_kit.embedding.extract import BatchPlan, extract_prepared
from gtsa_kit.embedding.model import choose_batch_size
from gtsa_kit.embedding.preprocess import PreparedImage, resize, takes_bytes, to_input
from gtsa_kit.embedding.resize_policy import MAX_PATCHES
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.evaluation.pca import fit_size
from gtsa_kit.export import Runner
from gtsa_kit.export.spec import FEATURE_MAP
from gtsa_kit.feature_grid import grid_to_mask, grid_to_pixel
from gtsa_kit.hardware import available_cores
from gtsa_kit.progress import ProgressCallback

MOST_BYTES = 2**31
"""Of tokens in memory; more lie in a file for as long as they are needed."""


@dataclass(frozen=True)
class Framing:
    """How the model looks at images."""

    size: int | None = None
    """Longer side of the input; None is the tile's, or the model's own."""
    tile: int | None = None
    """Side of the squares that images are cut into, in pixels; None is whole."""

    def __post_init__(self) -> None:
        """Refuse what can't be."""
        if min(self.size or PATCH, self.tile or PATCH) < PATCH:
            raise ValueError(f"sizes and tiles are at least {PATCH} pixels, got {self.size} and {self.tile}")

    def input_size(self, runner: Runner, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the input for an image or tile, nearest to its aspect that the model takes."""
        side = self.size or self.tile or runner.preprocessing.size
        size = runner.nearest_size(*fit_size(width, height, side))
        if size[0] * size[1] > MAX_PATCHES * PATCH**2:
            raise ValueError(
                f"an input of {size[1]} x {size[0]} has more than {MAX_PATCHES} patches; choose less --size"
            )
        return size


@dataclass(frozen=True)
class Place:
    """An image or tile, and its cells among all."""

    photo: int
    box: tuple[int, int, int, int]
    """(top, left, bottom, right) on the image."""
    size: tuple[int, int]
    """(height, width) of the input."""
    first: int

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of its cells."""
        return self.size[0] // PATCH, self.size[1] // PATCH

    @property
    def cells(self) -> slice:
        """Of all."""
        return slice(self.first, self.first + self.grid[0] * self.grid[1])


@dataclass(frozen=True)
class Tokens:
    """Of every image, in order."""

    photos: tuple[tuple[Place, ...], ...]
    """Places of each."""
    features: np.ndarray
    """(cells, D) float32."""
    shares: np.ndarray
    """(cells, C) float32: of each cell's pixels, by class; void is what is missing to 1."""

    def places(self, chosen: np.ndarray) -> list[Place]:
        """Places of the images that a (N,) bool chooses."""
        return [place for photo in np.flatnonzero(chosen) for place in self.photos[photo]]


@contextmanager
def compute_tokens(
    runner: Runner, data: SegmentationDataset, framing: Framing, tell: ProgressCallback, what: str
) -> Iterator[Tokens]:
    """Tokens of all images; a file that holds them, if there are many, goes with the block."""
    photos = tuple(_places(runner, data.pairs, framing))
    count = photos[-1][-1].cells.stop
    with tempfile.TemporaryDirectory(prefix="gtsa-") as folder:
        features = _room(Path(folder, "features"), (count, runner.manifest.dim))
        shares = _room(Path(folder, "shares"), (count, len(data.classes)))
        for place, found in _maps(runner, data.pairs, photos, tell, what):
            features[place.cells] = found.reshape(len(found), -1).T
        for pair, places in zip(data.pairs, photos, strict=True):
            labels = data.labels(pair)
            for place in places:
                top, left, bottom, right = place.box
                shares[place.cells] = cell_shares(labels[top:bottom, left:right], place.grid, len(data.classes))
        yield Tokens(photos, features, shares)


def cell_shares(labels: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """(h * w, classes) float32 of (H, W) labels: shares of each cell's pixels; a pixel is where its center is.

    A cell between pixels (where the grid is finer than the mask) has none.
    """
    cells = _cell_of_pixel(labels.shape, grid)
    count, shown = grid[0] * grid[1], labels < classes
    found = np.bincount(cells[shown] * classes + labels[shown], minlength=count * classes).reshape(count, classes)
    pixels = np.bincount(cells.ravel(), minlength=count)
    return (found / np.maximum(pixels, 1)[:, None]).astype(np.float32)


@lru_cache(64)
def _cell_of_pixel(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """(H, W) int64."""
    order = np.arange(grid[0] * grid[1]).reshape(grid)
    return grid_to_mask(grid_to_pixel(size[1], size[0], grid), order, size)


def _places(runner: Runner, pairs: Sequence[Pair], framing: Framing) -> Iterator[tuple[Place, ...]]:
    first = 0
    for photo, pair in enumerate(pairs):
        places = []
        for box in boxes(pair.width, pair.height, framing.tile):
            size = framing.input_size(runner, box[3] - box[1], box[2] - box[0])
            places.append(Place(photo, box, size, first))
            first = places[-1].cells.stop
        yield tuple(places)


def _room(path: Path, shape: tuple[int, int]) -> np.ndarray:
    if 4 * shape[0] * shape[1] <= MOST_BYTES:
        return np.empty(shape, np.float32)
    return np.memmap(path, np.float32, "w+", shape=shape)


def _maps(
    runner: Runner, pairs: Sequence[Pair], photos: Sequence[tuple[Place, ...]], tell: ProgressCallback, what: str
) -> Iterator[tuple[Place, np.ndarray]]:
    """(place, its map (D, h, w)), a batch of them in memory."""
    plan = BatchPlan(choose_batch_size(runner), 1, (FEATURE_MAP,), "float32")
    all_places = [place for places in photos for place in places]

    def load(places: tuple[Place, ...]) -> list[PreparedImage]:
        pixels = np.asarray(open_image(pairs[places[0].photo].image))
        return [_ready(pixels, place, runner) for place in places]

    with ThreadPoolExecutor(available_cores(), "gtsa-decode") as pool:
        loaded = bounded_map(pool, load, photos, window=2 * available_cores())
        flat = (image for images in loaded for image in images)
        # A window of one batch, though sizes may vary: inputs may be large.
        results = extract_prepared(flat, runner, plan, window_size=plan.batch_size)
        for index, (place, row) in enumerate(zip(all_places, results, strict=True)):
            assert not isinstance(row, FailedImage), "load makes no failures"
            tell(what, index + 1, len(all_places))
            yield place, row.maps[FEATURE_MAP]


def _ready(pixels: np.ndarray, place: Place, runner: Runner) -> PreparedImage:
    top, left, bottom, right = place.box
    own = np.ascontiguousarray(pixels[top:bottom, left:right])
    seen = resize(own, place.size, runner.preprocessing)
    image = to_input(seen, runner.preprocessing, takes_bytes(runner))
    return PreparedImage("", own.shape[1], own.shape[0], 1, "", image)
