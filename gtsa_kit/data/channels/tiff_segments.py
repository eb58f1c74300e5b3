"""Sizes of the tiles and strips of a TIFF, checked before they are decoded.

Bytes are inflated to the size of their tile at most. Image codecs (JPEG, PNG) decode the size that the tile's own
header states, whatever the TIFF says, so that header is read first.
"""

import io
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

if TYPE_CHECKING:
    from tifffile import TiffPage

_MIN_PIXELS: Final = 2**22
"""Pixels that a tile may always have: those of small images have up to 1024 x 1024."""
_SLACK: Final = 4
"""Factor by which a tile may exceed the image, and its content the tile, such as by blocks of JPEG."""
_JPEG: Final = (6, 7, 33007, 34892)
_START_OF_FRAME: Final = frozenset([*range(0xC0, 0xD0), 0xF7]) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset([0x01, *range(0xD0, 0xD9)])
_START_OF_SCAN: Final = 0xDA
_END: Final = 0xD9
Size = tuple[int, int]


def check_segments(page: "TiffPage") -> None:
    """Refuse tiles that are larger than the image, and let the page's decoder refuse content larger than its tile.

    Raises:
        ValueError: The tiles are too large, or of a codec whose size can't be read.
    """
    from tifffile import TIFF

    height, width = page.imagelength, page.imagewidth
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    pixels = tile[0] * tile[1] * max(page.tiledepth, 1)
    if pixels > max(_SLACK * height * width * max(page.imagedepth, 1), _MIN_PIXELS):
        raise ValueError(f"a TIFF of {width} x {height} with tiles of {tile[1]} x {tile[0]}; store smaller tiles")
    if page.compression in _JPEG:
        _guard(page, _jpeg_size, pixels)
    elif page.compression in TIFF.IMAGE_COMPRESSIONS:
        size_of = _SIZES.get(page.compression)
        if size_of is None:
            name = getattr(page.compression, "name", page.compression)
            raise ValueError(f"a TIFF compressed as {name}, which is not read; store it with deflate, LZW or Zstandard")
        _guard(page, size_of, pixels)


def _guard(page: "TiffPage", size_of: Callable[[bytes], Size], pixels: int) -> None:
    decode = page.decode

    def checked(data: bytes | None, index: int, **options: Any) -> Any:
        if data is not None:
            height, width = size_of((options.get("jpegheader") or b"") + data)
            if height * width > _SLACK * pixels:
                raise ValueError(f"a TIFF with a tile of {pixels} pixels whose content states {width} x {height}")
        return decode(data, index, **options)

    page.__dict__["decode"] = checked  # a cached property


def _jpeg_size(data: bytes) -> Size:
    """Return height and width of the first frame, found as libjpeg finds it."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0:
        while data[position : position + 1] == b"\xff":
            position += 1
        marker = data[position] if position < len(data) else _END
        position += 1
        if marker in _START_OF_FRAME:
            height, width = _unpack(">HH", data, position + 3)
            return height, width
        if marker in (_START_OF_SCAN, _END):
            break
        if marker and marker not in _WITHOUT_LENGTH:
            position += _unpack(">H", data, position)[0]
    raise ValueError("a TIFF of JPEG with a tile without a frame")


def _jpeg_2000_size(data: bytes) -> Size:
    if data[:4] != b"\xff\x4f\xff\x51":  # a codestream; boxes around it could state another size
        raise ValueError("a TIFF of JPEG 2000 whose tiles are no codestreams, store it with deflate, LZW or Zstandard")
    x1, y1, x0, y0 = _unpack(">IIII", data, 8)
    return y1 - y0, x1 - x0


def _png_size(data: bytes) -> Size:
    width, height = _unpack(">II", data, 16)
    return height, width


def _webp_size(data: bytes) -> Size:
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
        return image.height, image.width


_SIZES: Final[Mapping[int, Callable[[bytes], Size]]] = {
    **dict.fromkeys((33003, 33004, 33005, 34712), _jpeg_2000_size),
    34933: _png_size,
    50001: _webp_size,
}
"""Function that reads the size, by the number of the compression."""


def _unpack(template: str, data: bytes, start: int) -> Any:
    if len(data) < start + struct.calcsize(template):
        raise ValueError("a TIFF with a tile that ends within its header")
    return struct.unpack_from(template, data, start)
