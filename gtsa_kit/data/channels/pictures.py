"""Images that Pillow opens, with the samples of the file; 16-bit colors by imagecodecs, as Pillow keeps 8 bits."""

from typing import IO

import numpy as np
from PIL import Image

from gtsa_kit.data.channels.image import ChannelHeader, ChannelImage, ChannelLayout, SampleType, Window, make_image
from gtsa_kit.data.formats import pillow_formats
from gtsa_kit.data.rgb import apply_orientation, exif_orientation
from gtsa_kit.extras import hint_at_extra

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # color types: gray, RGB, gray with alpha, RGB with alpha
_LAYOUTS: dict[str, tuple[int, SampleType]] = {
    "L": (1, "uint8"),
    "LA": (2, "uint8"),
    "RGB": (3, "uint8"),
    "RGBA": (4, "uint8"),
    "CMYK": (4, "uint8"),
    "I;16": (1, "uint16"),
    "I;16B": (1, "uint16"),
    "I;16L": (1, "uint16"),
}


def read_header(file: IO[bytes]) -> ChannelHeader:
    """Return the shape of an image.

    Raises:
        ValueError: The samples are no intensities.
    """
    if deep := _deep_png(file):
        return deep
    with _opened(file) as image:
        count, dtype = _layout(image)
        return ChannelHeader(ChannelLayout(count, dtype, image.mode == "RGB"), image.height, image.width)


def read_image(file: IO[bytes], frame: int = 0, window: Window | None = None) -> ChannelImage:
    """Read the first frame, upright.

    Raises:
        ValueError: As for `read_header`, or the pixels are damaged.
    """
    del frame
    pixels: np.ndarray
    orientation = 1
    if deep := _deep_png(file):
        with hint_at_extra("16-bit colors of PNG files"):
            import imagecodecs
        file.seek(0)
        pixels, colors = imagecodecs.png_decode(file.read()), deep.layout.colors
    else:
        with _opened(file) as image:
            _layout(image)
            image.load()
            colors, orientation = image.mode == "RGB", exif_orientation(image)
            pixels = np.asarray(apply_orientation(image, orientation))
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    pixels = pixels if window is None else pixels[window.y0 : window.y1, window.x0 : window.x1]
    return make_image(pixels, colors, orientation=orientation)


def _opened(file: IO[bytes]) -> Image.Image:
    file.seek(0)
    return Image.open(file, formats=pillow_formats())


def _layout(image: Image.Image) -> tuple[int, SampleType]:
    if image.mode not in _LAYOUTS:
        what = {"P": "palette indices", "PA": "palette indices", "1": "1 bit"}.get(image.mode, f"mode {image.mode}")
        raise ValueError(f"an image of {what}, which are no intensities of channels; store gray values or colors")
    return _LAYOUTS[image.mode]


def _deep_png(file: IO[bytes]) -> ChannelHeader | None:
    """Return the header of a PNG of 16-bit colors or with alpha, which Pillow reduces to 8 bits; None for others."""
    file.seek(0)
    start = file.read(26)
    if start[:8] != _PNG or start[12:16] != b"IHDR" or start[24] != 16 or _PNG_CHANNELS.get(start[25], 1) == 1:
        return None
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    return ChannelHeader(ChannelLayout(_PNG_CHANNELS[start[25]], "uint16", start[25] == 2), height, width)
