"""Reader of the images of a run: 8-bit RGB, or N channels as its settings say."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from gtsa_kit.config import ChannelsConfig
from gtsa_kit.config.channels_section import sample_scale
from gtsa_kit.data.channels.image import ChannelHeader, ChannelImage, ChannelLayout, Window
from gtsa_kit.data.channels.read import check_layout, read_channels, read_header
from gtsa_kit.data.channels.valid_area import cut_to_data
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, image_errors, read_file

Position = tuple[float, float]
"""Position of a window: 0 at the upper or left end of the image, 1 at the lower or right one."""
CENTER: Position = (0.5, 0.5)
GRID: tuple[Position, ...] = (CENTER, *((y / 3, x / 3) for y in range(4) for x in range(4)))
"""Positions all over an image, the center first."""
RGB = ChannelLayout(3, "uint8", colors=True)
"""Layout of 8-bit RGB."""


@dataclass(frozen=True)
class ImageReader:
    """Function from the content of a file to an upright image with the channels of a run."""

    channels: ChannelsConfig = field(default_factory=ChannelsConfig)
    max_pixels: int = MAX_PIXELS
    check: Callable[[ChannelLayout, ChannelLayout, Path], None] = check_layout
    """Raises `ImageError` for a layout that is not the second one."""

    @property
    def layout(self) -> ChannelLayout:
        """Layout of the images."""
        channels = self.channels
        if channels.is_rgb:
            return RGB
        assert isinstance(channels.count, int), "found out before images are read"
        assert channels.dtype, "found out before images are read"
        return ChannelLayout(channels.count, channels.dtype, bool(channels.colors))

    def __call__(
        self, content: bytes | IO[bytes], name: str = "image", frame: int = 0, position: Position = CENTER
    ) -> ChannelImage:
        """Read an image, or the window of the settings, with its samples as they are stored.

        Args:
            content: Content of a file, or an open file.
            name: Name for errors.
            frame: Number of the frame in a file with several.
            position: Position of a window in the image.

        Raises:
            ImageError: The file can't be read, or has other channels; the message begins with `name`.
        """
        if self.channels.is_rgb:
            content = content if isinstance(content, bytes) else content.read()
            return ChannelImage(decode(content, name, self.max_pixels)[0], RGB)
        path, channels = Path(name), self.channels
        window = None
        if channels.scene_window is not None:
            window = _window(read_header(content, path), channels.scene_window, position)

        def check(layout: ChannelLayout) -> None:
            self.check(layout, self.layout, path)

        return read_channels(content, path, self.max_pixels, frame, window, channels.dicom_window, check)

    @property
    def reads_whole(self) -> bool:
        """True if files are read whole, False if windows of them are."""
        return self.channels.scene_window is None

    @property
    def positions(self) -> tuple[Position, ...]:
        """Positions of windows that together stand for an image; the center alone where images are read whole."""
        return (CENTER,) if self.reads_whole else GRID

    def frames(self, content: bytes | IO[bytes], name: str = "image") -> int:
        """Return the number of images in a file."""
        return 1 if self.channels.is_rgb else read_header(content, Path(name)).frames

    def samples(
        self,
        content: bytes | IO[bytes],
        name: str = "image",
        frame: int = 0,
        positions: Iterable[Position] = (CENTER,),
    ) -> np.ndarray:
        """Read the largest part without nodata: (H, W, 3) uint8 for RGB, else (H, W, N) float32, clipped.

        Of several positions the first one is read whose window holds enough data.

        Raises:
            ImageError: As for a call, or hardly a pixel holds data.
        """
        failed = None
        for position in positions:
            try:
                with image_errors(Path(name)):
                    image = cut_to_data(self(content, name, frame, position))
            except ImageError as error:
                failed = failed or error
            else:
                return image.pixels if self.channels.is_rgb else self.clipped(image.pixels)
        assert failed is not None, "there is a position"
        raise failed

    def filled(self, image: ChannelImage) -> np.ndarray:
        """Return all samples (H, W, N) of an image, with the mean of the channel where there is no data.

        They are uint8 for RGB, else float32, clipped.
        """
        if self.channels.is_rgb:
            return image.pixels
        pixels = self.clipped(image.pixels)
        if image.valid is not None:
            assert self.channels.mean, "measured before images are prepared"
            scale = np.float32(sample_scale(self.channels.dtype))
            pixels[~image.valid] = np.asarray(self.channels.mean, np.float32) * scale
        return pixels

    def clipped(self, pixels: np.ndarray) -> np.ndarray:
        """Return samples (..., N) as float32, clipped to the percentiles of the settings if there are any."""
        values: np.ndarray = pixels.astype(np.float32)
        if self.channels.percentiles is not None:
            assert self.channels.low, "measured before images are prepared"
            low, high = (np.asarray(limit, np.float32) for limit in (self.channels.low, self.channels.high))
            values.clip(low, high, out=values)
        return values


def _window(header: ChannelHeader, side: int, position: Position) -> Window | None:
    """Return the window of a side at a position; None where it is the whole image."""
    height, width = min(side, header.height), min(side, header.width)
    if (height, width) == (header.height, header.width):
        return None
    y0, x0 = round(position[0] * (header.height - height)), round(position[1] * (header.width - width))
    return Window(x0, y0, x0 + width, y0 + height)


def read_pixels(path: Path, reader: ImageReader) -> np.ndarray:
    """Return upright pixels (H, W, 3) uint8, or (H, W, N) float32 of other channels; raise `ImageError`."""
    return reader.filled(reader(read_file(path), str(path)))
