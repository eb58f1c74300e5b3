"""Images of N channels that are read part by part, so that memory depends on the parts, not on the scene."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from gtsa_kit.data.channels.image import ChannelHeader, ChannelImage, Window
from gtsa_kit.data.channels.read import read_channels, read_header, reads_windows
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_entry

BAND_BYTES: Final = 256 << 20
"""Memory of the samples of a part that is read at one time; wider scenes are split into strips of columns."""
_BAND_ROWS = 256


class Scene:
    """Image of N channels of a source. What has no data is known for the parts that were read."""

    def __init__(self, source: Source, entry: Entry, reader: ImageReader) -> None:
        """Read the header, and the pixels of a format of which no part can be read alone.

        Raises:
            ImageError: The file can't be read, has other channels, or more pixels than the reader's limit.
        """
        self._source, self._entry, self._reader = source, entry, reader
        self.nodata: np.ndarray | None = None
        """Pixels (H, W) bool without data, as far as they were read; None if there was none."""
        path = Path(entry.name)
        with open_entry(source, entry) as file:
            header = read_header(file, path)
            reader.check(header.layout, reader.layout, path)
            _check_pixels(header, path, reader.max_pixels)
            self._whole = None if reads_windows(file, path) else reader(file, entry.name)
        size = (header.height, header.width) if self._whole is None else self._whole.pixels.shape[:2]
        self.shape = (*size, header.layout.count)
        """Height, width and channels of the upright image."""

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> ChannelImage:
        """Read the pixels of rows and columns, as far as the image has them.

        Raises:
            ImageError: They can't be read, or are NaN where there is data.
        """
        area = slice(rows[0], min(rows[1], self.shape[0])), slice(columns[0], min(columns[1], self.shape[1]))
        part = self._read(Window(area[1].start, area[0].start, area[1].stop, area[0].stop))
        if part.valid is not None and not part.valid.all():
            if self.nodata is None:
                self.nodata = np.zeros(self.shape[:2], bool)
            self.nodata[area] = ~part.valid
        return part

    def samples(self) -> np.ndarray:
        """Return all samples (H, W, N) float32, with the mean of the channel where there is no data.

        Raises:
            ImageError: As for `part`; or the image needs more memory than the limit of size allows.
        """
        with open_entry(self._source, self._entry) as file:
            return self._reader.filled(self._whole or self._reader(file, self._entry.name))

    def picture(self, step: int, make_picture: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return a picture (h, w, 3) uint8 of every `step`-th pixel of every `step`-th row.

        Args:
            step: Distance of the pixels.
            make_picture: Function from samples (h, w, N) to their picture.
        """
        height, width, _ = self.shape
        band, parts = step * max(1, _BAND_ROWS // step), []
        for top in range(0, height, band):
            part = self.part((top, top + band), (0, width))
            valid = None if part.valid is None else part.valid[::step, ::step]
            parts.append(
                make_picture(self._reader.filled(ChannelImage(part.pixels[::step, ::step], part.layout, valid)))
            )
        return np.concatenate(parts)

    def _read(self, window: Window) -> ChannelImage:
        if self._whole is not None:
            area = slice(window.y0, window.y1), slice(window.x0, window.x1)
            valid = None if self._whole.valid is None else self._whole.valid[area]
            return ChannelImage(self._whole.pixels[area], self._whole.layout, valid)
        with open_entry(self._source, self._entry) as file:
            return read_channels(file, Path(self._entry.name), self._reader.max_pixels, window=window, allow_empty=True)


def _check_pixels(header: ChannelHeader, path: Path, max_pixels: int) -> None:
    """Raise `ImageError` for an image whose mask alone would be too large."""
    if header.height * header.width > max_pixels:
        megapixels = header.height * header.width / 1e6
        size = f"{header.width} x {header.height}"
        raise ImageError(path, f"{size} is {megapixels:.0f} megapixels, above the limit of {max_pixels / 1e6:.0f}")
