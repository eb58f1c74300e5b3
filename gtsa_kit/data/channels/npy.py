"""Arrays of numpy, `.npy`: (H, W), (H, W, N) or (N, H, W). Nothing is unpickled."""

from typing import IO, Any

import numpy as np

from gtsa_kit.data.channels.image import ChannelHeader, ChannelImage, ChannelLayout, Window, make_image, sample_type

MAGIC = b"\x93NUMPY"


def read_header(file: IO[bytes]) -> ChannelHeader:
    """Return the shape of an array.

    Raises:
        ValueError: It is no image: objects, other dimensions, or none of a size.
    """
    shape, _, dtype = _parse(file)
    height, width, count = _sizes(shape)
    return ChannelHeader(ChannelLayout(count, sample_type(dtype)), height, width)


def read_image(file: IO[bytes], frame: int = 0, window: Window | None = None) -> ChannelImage:
    """Read an array, or a window of it, of which then little else is read.

    Raises:
        ValueError: As for `read_header`, or the file ends before the array does.
    """
    del frame  # an array is one image
    shape, fortran, dtype = _parse(file)
    _sizes(shape)
    values: np.ndarray
    if window is not None and hasattr(file, "name"):
        values = np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    else:
        size = int(np.prod(shape)) * dtype.itemsize
        content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"{len(content)} bytes follow the header, where the array {shape} has {size}")
        values = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    pixels = _channels_last(values)
    if window is not None:
        pixels = pixels[window.y0 : window.y1, window.x0 : window.x1]
    return make_image(pixels, colors=False)


def _parse(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type; the file is then at the first value."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"an array of version {version[0]}.{version[1]}, which is not read; save it with numpy.save")
    shape, fortran, dtype = readers[version](file)
    sample_type(dtype)
    return shape, fortran, dtype


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return height, width and number of channels."""
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"an array {shape} is no image; save (H, W), (H, W, channels) or (channels, H, W)")
    if len(shape) == 2:
        return *shape, 1
    return (shape[1], shape[2], shape[0]) if _is_channels_first(shape) else shape  # type: ignore[return-value]


def _channels_last(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if _is_channels_first(values.shape) else values


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether the first axis, the shorter one of first and last, holds the channels."""
    return shape[0] < shape[-1]
