"""TIFF, BigTIFF and GeoTIFF of any number of channels, by tifffile; a window is read without the rest of the image."""

from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gtsa_kit.data.channels.image import ChannelHeader, ChannelImage, ChannelLayout, Window, make_image, sample_type
from gtsa_kit.data.channels.tiff_segments import check_segments
from gtsa_kit.extras import hint_at_extra

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _NODATA = 274, 42113
_WHITE_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 2, 3, 6  # photometric interpretations
_MASK_PAGE = 4  # bit of the subfile type
_JPEG = (6, 7)
_CHANNEL_AXES, _FRAME_AXES = "CS", "ZTRVHEAL"


def read_header(file: IO[bytes]) -> ChannelHeader:
    """Return the shape of the first image series.

    Raises:
        ValueError: The file is no TIFF, or its samples are not read.
    """
    with _opened(file) as tiff:
        series = _series(tiff)
        sizes = _sizes(series)
        layout = ChannelLayout(sizes["channels"], sample_type(series.dtype), _is_rgb(series) and sizes["channels"] == 3)
        return ChannelHeader(layout, sizes["Y"], sizes["X"], sizes["frames"])


def read_image(file: IO[bytes], frame: int = 0, window: Window | None = None) -> ChannelImage:
    """Read a frame, or a window of it; only the tiles or strips that the window touches are decoded.

    Args:
        file: Open file.
        frame: Number of the frame.
        window: Window in pixels of the stored image; None for all of it.

    Raises:
        ValueError: As for `read_header`, or the pixels are damaged.
    """
    with _opened(file) as tiff:
        series = _series(tiff)
        check_segments(series.keyframe)
        pixels = _read(series, frame, window)
        valid = _valid(tiff, series, pixels, window)
        if series.keyframe.photometric == _WHITE_IS_ZERO:
            pixels = _inverted(pixels, series.keyframe.bitspersample)
        tag = series.keyframe.tags.get(_ORIENTATION)
        orientation = int(tag.value) if tag is not None and window is None else 1
        orientation = orientation if 1 <= orientation <= 8 else 1
        valid = None if valid is None else _upright(valid, orientation)
        return make_image(_upright(pixels, orientation), _is_rgb(series), valid, orientation)


def is_upright(file: IO[bytes]) -> bool:
    """Return whether the first image is stored as it is shown; raise `ValueError` as `read_header` does."""
    with _opened(file) as tiff:
        tag = _series(tiff).keyframe.tags.get(_ORIENTATION)
        return tag is None or int(tag.value) in (0, 1)


def _opened(file: IO[bytes]) -> "TiffFile":
    with hint_at_extra("TIFF files with their full depth and all channels"):
        import imagecodecs  # noqa: F401
        import tifffile
    file.seek(0)
    return tifffile.TiffFile(file)


def _series(tiff: "TiffFile") -> "TiffPageSeries":
    """Return the first series of images, without reduced copies and masks.

    Raises:
        ValueError: There is none, or its samples mean something else than intensities.
    """
    images = [one for one in tiff.series if not _is_mask(one)]
    if not images or "Y" not in images[0].axes or "X" not in images[0].axes:
        raise ValueError("a TIFF without an image")
    series = images[0]
    page = series.keyframe
    if page.photometric == _PALETTE:
        raise ValueError("a TIFF of palette indices, which are no intensities; store gray values or colors")
    if page.photometric == _YCBCR and page.compression not in _JPEG:
        raise ValueError("a TIFF of YCbCr without JPEG, which is not read; store RGB")
    if series.dtype is None or page.bitspersample == 1:
        raise ValueError("a TIFF of 1 bit or of mixed types, which is not read; store uint8, uint16 or float32")
    return series


def _sizes(series: "TiffPageSeries") -> dict[str, int]:
    """Return the lengths of Y and X, and those of the channels and of the frames."""
    sizes = dict(zip(_roles(series), series.shape, strict=True))
    channels = int(np.prod([n for role, n in sizes.items() if role.startswith("channel")]))
    frames = int(np.prod([n for role, n in sizes.items() if role.startswith("frame")]))
    return {"Y": sizes["Y"], "X": sizes["X"], "channels": channels, "frames": frames}


def _roles(series: "TiffPageSeries") -> list[str]:
    """Return the role of every axis: Y, X, channel or frame, with a number, as names must differ.

    Pages without a meaning are channels if nothing else is, as most programs write bands; else they are frames.
    """
    axes = series.axes
    has_channels = any(axis in _CHANNEL_AXES for axis in axes)
    roles = []
    for number, axis in enumerate(axes):
        if axis in "YX":
            roles.append(axis)
        elif axis in _CHANNEL_AXES or not (has_channels or axis in _FRAME_AXES):
            roles.append(f"channel {number}")
        else:
            roles.append(f"frame {number}")
    return roles


def _read(series: "TiffPageSeries", frame: int, window: Window | None) -> np.ndarray:
    """Return (H, W, N) of a frame, or of a window of it."""
    roles, sizes = _roles(series), _sizes(series)
    if not 0 <= frame < sizes["frames"]:
        raise ValueError(f"frame {frame} of {sizes['frames']}")
    lengths = [n for role, n in zip(roles, series.shape, strict=True) if role.startswith("frame")]
    numbers = iter(np.unravel_index(frame, lengths) if lengths else ())
    box = window or Window(0, 0, sizes["X"], sizes["Y"])
    spans = {"Y": slice(box.y0, box.y1), "X": slice(box.x0, box.x1)}
    index = tuple(int(next(numbers)) if role.startswith("frame") else spans.get(role, slice(None)) for role in roles)
    values = series.asarray() if window is None and sizes["frames"] == 1 else _select(series, index)
    kept = [role for role in roles if not role.startswith("frame")]
    if values.ndim != len(kept):
        values = values.reshape([n for role, n in zip(roles, series.shape, strict=True) if role in kept])
    order = [kept.index("Y"), kept.index("X"), *(i for i, role in enumerate(kept) if role.startswith("channel"))]
    values = values.transpose(order)
    return values.reshape(*values.shape[:2], -1)


def _select(series: "TiffPageSeries", index: tuple[Any, ...]) -> np.ndarray:
    """Return a selection of a series; only the tiles or strips that it touches are decoded."""
    import zarr

    with ExitStack() as stack:
        store = series.aszarr(level=0)
        stack.callback(store.close)
        array: Any = zarr.open(store, mode="r" if store.read_only else "r+")
        array = array if isinstance(array, zarr.Array) else array["0"]
        return np.asarray(array[index])


def _valid(tiff: "TiffFile", series: "TiffPageSeries", pixels: np.ndarray, window: Window | None) -> np.ndarray | None:
    """Return where all channels hold data, (H, W) bool, by GDAL's nodata value and by mask pages; None without them."""
    valid = None
    if _NODATA in series.keyframe.tags:
        nodata = float(str(series.keyframe.tags[_NODATA].value).strip().rstrip("\0"))
        is_data = ~np.isnan(pixels) if np.isnan(nodata) else pixels != _as_sample(nodata, pixels.dtype)
        valid = is_data.all(axis=-1)
    sizes = _sizes(series)
    for other in tiff.series:
        if _is_mask(other) and other.shape == (sizes["Y"], sizes["X"]):
            check_segments(other.keyframe)
            has_data = other.asarray() > 0
            has_data = has_data if window is None else has_data[window.y0 : window.y1, window.x0 : window.x1]
            valid = has_data if valid is None else valid & has_data
    return valid


def _is_mask(series: "TiffPageSeries") -> bool:
    return bool(int(getattr(series.keyframe, "subfiletype", 0)) & _MASK_PAGE)


def _as_sample(nodata: float, dtype: np.dtype) -> Any:
    """Return a nodata value as a sample; None, which equals none of them, where the type does not hold it."""
    if dtype.kind == "f":
        return np.asarray(nodata, dtype)
    limits = np.iinfo(dtype)
    return np.asarray(nodata, dtype) if nodata.is_integer() and limits.min <= nodata <= limits.max else None


def _inverted(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return samples where 0 is white as samples where 0 is black."""
    if pixels.dtype.kind != "u":
        raise ValueError("a TIFF with signed or floating-point samples where 0 is white, store it with 0 as black")
    inverted: np.ndarray = (2**bits - 1) - pixels
    return inverted


def _is_rgb(series: "TiffPageSeries") -> bool:
    return series.keyframe.photometric in (_RGB, _YCBCR)


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate or mirror (H, W, ...) that is stored with a TIFF orientation, 1 to 8, so that it is upright."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
