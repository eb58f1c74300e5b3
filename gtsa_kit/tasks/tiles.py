"""Masks of large images by sliding windows at the image's own resolution, in bounded memory.

Logits of overlapping windows are blended: each is weighted by its distance to the edge of its window, as the edge of a
window lacks the context of its surroundings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from gtsa_kit.data.channels.image import ChannelImage
from gtsa_kit.data.channels.reader import RGB
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.label_map import VOID
from gtsa_kit.embedding.preprocess import to_input
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.spec import MASK
from gtsa_kit.models.channel_images import filled_samples
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.tasks.predictor import Predictor, split_outputs
from gtsa_kit.tasks.scene import BAND_BYTES, Scene

STRIP_BYTES: Final = 256 << 20
"""Memory of the blended logits that exist at one time; wider images are split into strips of columns."""
NOT_FINITE = "the model's logits are not finite (NaN or infinity)"
NO_LOGITS = "--tile blends windows by their logits, which this file does not return; export it without --output mask"


@dataclass(frozen=True)
class Tiling:
    """Size and overlap of windows in pixels of the image."""

    tile: int
    overlap: int

    def __post_init__(self) -> None:
        """Raise `ValueError` for an overlap that is no part of the tile."""
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"--overlap must be from 0 to below --tile {self.tile}, got {self.overlap}")


def choose_tiling(manifest: Manifest, tile: int, overlap: int | None) -> Tiling:
    """Return the tiling, by default with an overlap of a quarter of the tile.

    Raises:
        ValueError: The model takes no input of that size or returns no logits, or the overlap is as large as the tile.
    """
    if manifest.output == MASK:
        raise ValueError(NO_LOGITS)
    try:
        for axis in ("height", "width"):
            manifest.check_axis(axis, tile)
    except ValueError as error:
        raise ValueError(f"--tile {tile}: {error}") from error
    return Tiling(tile, tile // 4 if overlap is None else overlap)


def tiled_mask(image: np.ndarray | Scene, predictor: Predictor, tiling: Tiling, batch_size: int) -> np.ndarray:
    """Return the class numbers (H, W) uint8 of the pixels of an image, `VOID` where it has no data.

    Args:
        image: (H, W, 3) uint8, or a scene. A side below the tile is padded with its edge to the next size that the
            model takes.
        predictor: The model.
        tiling: Size and overlap of the windows.
        batch_size: Windows in one call of the model, at most.

    Raises:
        ImageError: The logits are not finite.
    """
    height, width = image.shape[:2]
    rows, columns = (window_spans(n, tiling, predictor.manifest, a) for n, a in ((height, "height"), (width, "width")))
    mask = np.empty((rows[-1][1], columns[-1][1]), np.uint8)
    tile_height = rows[0][1] - rows[0][0]
    strip = max(columns[0][1], STRIP_BYTES // (4 * len(predictor.labels) * tile_height))
    if isinstance(image, Scene):
        strip = max(columns[0][1], min(strip, BAND_BYTES // (4 * image.shape[2] * tile_height)))
    run = WindowRunner(image, predictor, batch_size)
    for left in range(0, mask.shape[1], strip):
        right = min(left + strip, mask.shape[1])
        inside = [span for span in columns if span[0] < right and span[1] > left]
        for top, bottom, classes in _strip_rows(run, rows, inside, (left, right), tiling.overlap):
            mask[top:bottom, left:right] = classes
    mask = mask[:height, :width]
    if isinstance(image, Scene) and image.nodata is not None:
        if image.nodata.all():
            raise ImageError(Path("image"), "no pixel holds data")
        mask[image.nodata] = VOID
    return mask


def window_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixels of the windows along a side; the last window ends at the end of the side."""
    last = max(0, length - tile)
    return [*range(0, last, tile - overlap), last]


def blend_weights(height: int, width: int, overlap: int) -> np.ndarray:
    """Return the weights (height, width) of a window's logits: they rise over the overlap from its edges to 1."""
    sides = []
    for length in (height, width):
        edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
        sides.append(np.minimum(1, edge / (overlap + 1)).astype(np.float32))
    return sides[0][:, None] * sides[1][None, :]


@dataclass(frozen=True)
class WindowRunner:
    """Function from windows of one image to the outputs of the model."""

    image: np.ndarray | Scene
    predictor: Predictor
    batch_size: int

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the model."""
        return Preprocessing.from_dict(self.predictor.manifest.preprocessing)

    def __call__(self, row: tuple[int, int], columns: list[tuple[int, int]]) -> Iterator[tuple[int, TaskOutput]]:
        """Yield (first column, output without the batch axis) of the windows of one row that hold data."""
        band, start = self._band(row, (columns[0][0], columns[-1][1])), columns[0][0]
        if band.valid is not None:
            columns = [(left, right) for left, right in columns if band.valid[:, left - start : right - start].any()]
        if not columns:
            return
        area = (row[1] - row[0]) * (columns[0][1] - columns[0][0])
        step = min(self.batch_size, self.predictor.batch_limit(area))
        for i in range(0, len(columns), step):
            batch = columns[i : i + step]
            parts = [_columns_of(band, left - start, right - start) for left, right in batch]
            outputs = self.predictor(np.stack([self._input(part, row, batch[0]) for part in parts]))
            yield from zip((first for first, _ in batch), split_outputs(outputs), strict=True)

    def _band(self, row: tuple[int, int], columns: tuple[int, int]) -> ChannelImage:
        """Return the pixels of a row of windows, as far as the image has them."""
        if isinstance(self.image, Scene):
            return self.image.part(row, columns)
        return ChannelImage(self.image[slice(*row), slice(*columns)], RGB)

    def _input(self, part: ChannelImage, row: tuple[int, int], column: tuple[int, int]) -> np.ndarray:
        """Return the input of the model for a window, of which an image may have a part alone."""
        manifest = self.predictor.manifest
        pixels = part.pixels
        if not self.preprocessing.is_rgb:  # as `Preprocessor` gives whole images
            pixels = self.preprocessing.as_samples(filled_samples(part, self.preprocessing))
        missing = [(0, row[1] - row[0] - pixels.shape[0]), (0, column[1] - column[0] - pixels.shape[1]), (0, 0)]
        return to_input(np.pad(pixels, missing, mode="edge"), self.preprocessing, manifest.input_format)


def _columns_of(band: ChannelImage, left: int, right: int) -> ChannelImage:
    valid = None if band.valid is None else band.valid[:, left:right]
    return ChannelImage(band.pixels[:, left:right], band.layout, valid)


def _strip_rows(
    run: WindowRunner,
    rows: list[tuple[int, int]],
    columns: list[tuple[int, int]],
    strip: tuple[int, int],
    overlap: int,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (first row, row after the last, class numbers) of the columns of a strip, from above.

    Only the rows that one row of windows covers have logits in memory. A row is done when no window below reaches it.
    """
    (left, right), classes = strip, len(run.predictor.labels)
    height, width = rows[0][1] - rows[0][0], columns[0][1] - columns[0][0]
    weights = blend_weights(height, width, overlap)
    total = np.zeros((classes, height, right - left), np.float32)
    for i, (top, bottom) in enumerate(rows):
        for start, output in run((top, bottom), columns):
            logits = output.logits
            assert logits is not None, "choose_tiling refuses a model without logits"
            first, last = max(start, left), min(start + width, right)
            part = slice(first - start, last - start)
            total[:, :, first - left : last - left] += logits[:, :, part] * weights[:, part]
        end = rows[i + 1][0] if i + 1 < len(rows) else bottom
        done = total[:, : end - top]
        if not np.isfinite(done).all():
            raise ImageError(Path("image"), NOT_FINITE)
        yield top, end, done.argmax(0).astype(np.uint8)
        total[:, : bottom - end] = total[:, end - top :].copy()
        total[:, bottom - end :] = 0


def window_spans(length: int, tiling: Tiling, manifest: Manifest, axis: str) -> list[tuple[int, int]]:
    """Return (first, after the last) of the windows along a side."""
    patch = manifest.patch
    tile = min(tiling.tile, manifest.range_of(axis).clamp(-(-length // patch) * patch))
    return [(start, start + tile) for start in window_starts(length, tile, min(tiling.overlap, tile - 1))]
