"""Patch tokens of images, or of tiles of images, with the class shares of their pixels."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.inspected_pairs import ImageMaskPair
from gtsa_kit.data.labeled_masks import SegmentationDataset, tile_boxes
from gtsa_kit.embedding.extract import BatchPlan, extract_prepared
from gtsa_kit.embedding.model import choose_batch_size
from gtsa_kit.embedding.preprocess import PreparedImage, resize, to_input
from gtsa_kit.embedding.resize_policy import MAX_PATCHES
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.evaluation.eval_images import fit_size
from gtsa_kit.export import Runner
from gtsa_kit.export.spec import FEATURE_MAP
from gtsa_kit.feature_grid import grid_to_mask, grid_to_pixel
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.channel_images import read_input
from gtsa_kit.progress import ProgressCallback

MAX_MEMORY_BYTES = 2**31
"""Largest array of tokens that is kept in memory; a larger one is mapped to a temporary file."""


@dataclass(frozen=True)
class InputOptions:
    """Size of the model's input, and tiling of the images."""

    size: int | None = None
    """Longer side of the input, in pixels; None means the tile's side, or the model's own size without tiles."""
    tile: int | None = None
    """Side of the square tiles that images are cut into, in pixels; None means whole images."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: The size or the tile is not positive.
        """
        if min(self.size or 1, self.tile or 1) < 1:
            raise ValueError(f"sizes and tiles are at least 1 pixel, got {self.size} and {self.tile}")

    def input_size(self, runner: Runner, width: int, height: int) -> tuple[int, int]:
        """Return the (height, width) that the model accepts and that is nearest to the aspect ratio of an image.

        Args:
            runner: Model.
            width, height: Size of the image or tile, in pixels.

        Raises:
            ValueError: The input would have more than `MAX_PATCHES` patches.
        """
        side = self.size or self.tile or runner.preprocessing.size
        size = runner.nearest_size(*fit_size(width, height, side, runner.manifest.patch))
        if size[0] * size[1] > MAX_PATCHES * runner.manifest.patch**2:
            raise ValueError(
                f"an input of {size[1]} x {size[0]} has more than {MAX_PATCHES} patches; choose a smaller --size"
            )
        return size


@dataclass(frozen=True)
class TokenSpan:
    """Rows of the token array that belong to one image or tile."""

    image_index: int
    """Index of the image in the dataset."""
    box: tuple[int, int, int, int]
    """Box of the tile (top, left, bottom, right), in pixels of the image."""
    input_size: tuple[int, int]
    """Size of the model's input (height, width), in pixels."""
    grid: tuple[int, int]
    """Patch grid (h, w)."""
    start: int
    """Index of the first row."""

    @property
    def rows(self) -> slice:
        """Slice of the token array."""
        return slice(self.start, self.start + self.grid[0] * self.grid[1])


@dataclass(frozen=True)
class PatchTokens:
    """Tokens and class shares of all patches of a dataset."""

    spans: tuple[tuple[TokenSpan, ...], ...]
    """Spans of each image, in order of the dataset."""
    features: np.ndarray
    """Patch tokens, (patches, D) float32."""
    class_shares: np.ndarray
    """Share of each class among the pixels of a patch, (patches, C) float32; void pixels belong to no class."""

    def spans_of(self, selected: np.ndarray) -> list[TokenSpan]:
        """Return the spans of the images that a (N,) bool mask selects."""
        return [span for index in np.flatnonzero(selected) for span in self.spans[index]]


@contextmanager
def compute_patch_tokens(
    runner: Runner, data: SegmentationDataset, inputs: InputOptions, on_progress: ProgressCallback, task: str
) -> Iterator[PatchTokens]:
    """Yield the tokens of all images; they are valid inside the `with` block.

    Args:
        runner: Model.
        data: Images and masks.
        inputs: Input size and tiling.
        on_progress: Progress callback.
        task: Name of the task in progress messages.
    """
    spans = tuple(_spans(runner, data.pairs, inputs))
    count = spans[-1][-1].rows.stop
    with tempfile.TemporaryDirectory(prefix="gtsa-") as folder:
        features = _allocate(Path(folder, "features"), (count, runner.manifest.dim))
        shares = _allocate(Path(folder, "shares"), (count, len(data.classes)))
        for span, feature_map in _feature_maps(runner, data.pairs, spans, on_progress, task):
            features[span.rows] = feature_map.reshape(len(feature_map), -1).T
        for pair, pair_spans in zip(data.pairs, spans, strict=True):
            labels = data.labels(pair)
            for span in pair_spans:
                top, left, bottom, right = span.box
                shares[span.rows] = patch_class_shares(labels[top:bottom, left:right], span.grid, len(data.classes))
        yield PatchTokens(spans, features, shares)


def patch_class_shares(labels: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Compute the share of each class among the pixels of each patch.

    A pixel belongs to the patch that contains its center. A patch without pixels (where the grid is finer than the
    mask) has all shares 0.

    Args:
        labels: (H, W) class numbers; those of `classes` and above are void.
        grid: (h, w) of the patch grid.
        classes: Number of classes.

    Returns:
        (h * w, classes) float32.
    """
    patches = _patch_of_pixel(labels.shape, grid)
    count, labeled = grid[0] * grid[1], labels < classes
    index = patches[labeled] * classes + labels[labeled]
    pixels_by_class = np.bincount(index, minlength=count * classes).reshape(count, classes)
    pixels = np.bincount(patches.ravel(), minlength=count)
    return (pixels_by_class / np.maximum(pixels, 1)[:, None]).astype(np.float32)


@lru_cache(64)
def _patch_of_pixel(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) int64 patch index of each pixel."""
    order = np.arange(grid[0] * grid[1]).reshape(grid)
    return grid_to_mask(grid_to_pixel(size[1], size[0], grid), order, size)


def _spans(runner: Runner, pairs: Sequence[ImageMaskPair], inputs: InputOptions) -> Iterator[tuple[TokenSpan, ...]]:
    start = 0
    for index, pair in enumerate(pairs):
        spans = []
        for box in tile_boxes(pair.width, pair.height, inputs.tile):
            size = inputs.input_size(runner, box[3] - box[1], box[2] - box[0])
            grid = size[0] // runner.manifest.patch, size[1] // runner.manifest.patch
            spans.append(TokenSpan(index, box, size, grid, start))
            start = spans[-1].rows.stop
        yield tuple(spans)


def _allocate(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Allocate a float32 array, in memory or mapped to a file."""
    if 4 * shape[0] * shape[1] <= MAX_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    return np.memmap(path, np.float32, "w+", shape=shape)


def _feature_maps(
    runner: Runner,
    pairs: Sequence[ImageMaskPair],
    spans: Sequence[tuple[TokenSpan, ...]],
    on_progress: ProgressCallback,
    task: str,
) -> Iterator[tuple[TokenSpan, np.ndarray]]:
    """Yield each span with its (D, h, w) feature map; one batch at a time is in memory."""
    plan = BatchPlan(choose_batch_size(runner), 1, (FEATURE_MAP,), "float32")
    all_spans = [span for image_spans in spans for span in image_spans]

    def load(image_spans: tuple[TokenSpan, ...]) -> list[PreparedImage]:
        pixels = np.asarray(read_input(pairs[image_spans[0].image_index].image, runner.preprocessing))
        return [_prepare(pixels, span, runner) for span in image_spans]

    with ThreadPoolExecutor(available_cores(), "gtsa-decode") as pool:
        loaded = bounded_map(pool, load, spans, window=2 * available_cores())
        flat = (image for images in loaded for image in images)
        # A window is one batch, even where sizes vary, since inputs may be large.
        results = extract_prepared(flat, runner, plan, window_size=plan.batch_size)
        for index, (span, row) in enumerate(zip(all_spans, results, strict=True)):
            if isinstance(row, FailedImage):
                raise ValueError(f"{pairs[span.image_index].image}: {row.reason}")
            on_progress(task, index + 1, len(all_spans))
            yield span, row.maps[FEATURE_MAP]


def _prepare(pixels: np.ndarray, span: TokenSpan, runner: Runner) -> PreparedImage:
    top, left, bottom, right = span.box
    tile = np.ascontiguousarray(pixels[top:bottom, left:right])
    resized = resize(tile, span.input_size, runner.preprocessing)
    image = to_input(resized, runner.preprocessing, runner.manifest.input_format)
    return PreparedImage("", tile.shape[1], tile.shape[0], 1, "", "", image, runner.manifest.input_format)
