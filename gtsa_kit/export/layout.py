"""Layout of a batch of images: read from the shape of a graph's input, never from its dtype."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

Layout = Literal["nchw", "nhwc"]
"""Order of the axes: batch, channels, height, width; or batch, height, width, channels."""
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)
CHANNELS: Final = "3"
"""Name of the axis of the color channels, which is their number."""
AXES: Final[Mapping[Layout, tuple[str, ...]]] = {
    "nchw": ("batch", CHANNELS, "height", "width"),
    "nhwc": ("batch", "height", "width", CHANNELS),
}
"""Names of the axes by layout."""
_AXIS_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("c", "channel", "channels", "color", "colors"), CHANNELS),
    **dict.fromkeys(("h", "height", "rows"), "height"),
    **dict.fromkeys(("w", "width", "cols", "columns"), "width"),
}
"""Axes by words in the names that exporters give them, such as "num_channels"."""


@dataclass(frozen=True)
class InputFormat:
    """Elements of the batch that a graph takes."""

    normalizes: bool
    """True if the graph takes samples, which it normalizes itself; False for normalized float32."""
    layout: Layout
    patch: int
    """Side of a patch in pixels."""
    dtype: str = "uint8"
    """Type of the samples, where the graph normalizes them."""

    def of_samples(self, pixels: np.ndarray) -> np.ndarray:
        """Return samples (H, W, N) as an element of the batch of a graph that normalizes them."""
        return from_channels_last(pixels.astype(self.dtype, copy=False), self.layout)


def arrange(layout: Layout, batch: Any, height: Any, width: Any, channels: int = 3) -> tuple[Any, ...]:
    """Return the shape of a batch of images."""
    lengths = {"batch": batch, "height": height, "width": width, CHANNELS: channels}
    return tuple(lengths[axis] for axis in AXES[layout])


def from_channels_last(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Return pixels (..., H, W, N) in a layout, without the axis of the batch."""
    return pixels if layout == "nhwc" else np.ascontiguousarray(np.moveaxis(pixels, -1, -3))


def possible_layouts(shape: Sequence[int | str], count: int = 3) -> tuple[Layout, ...]:
    """Return the layouts that a shape of four axes allows for images of a number of channels.

    The channels are the axis of that length. Where no axis has it, they are a dynamic axis: the one that is named so,
    as in ("batch_size", "num_channels", "height", "width"), or the only one that is left.
    """
    channels = {layout: shape[AXES[layout].index(CHANNELS)] for layout in LAYOUTS}
    agreement = {layout: _agreements(layout, shape) for layout in LAYOUTS}
    dynamic = [layout for layout in LAYOUTS if isinstance(channels[layout], str) and all(agreement[layout])]
    for fitting in (
        [layout for layout in LAYOUTS if channels[layout] == count],
        [layout for layout in dynamic if agreement[layout]],
        dynamic,
    ):
        if fitting:
            return tuple(fitting)
    return ()


def layout_of(shape: Sequence[int | str]) -> Layout:
    """Return the layout of a shape of one of gtsa-kit's own graphs, whose only axis of length 3 are the channels."""
    (layout,) = possible_layouts(shape)
    return layout


def choose_layout(shape: Sequence[int | str], requested: Layout | None, name: str, count: int = 3) -> Layout:
    """Return the layout that the shape of an input tells, or the requested one where it tells none.

    Args:
        shape: Shape of the input; a dynamic axis is a string.
        requested: Layout that the caller names, or None.
        name: Name of the file, for errors.
        count: Number of channels of the images.

    Raises:
        ValueError: The shape is not that of such images, allows both layouts and none is requested, or contradicts the
            requested one.
    """
    possible = possible_layouts(shape, count)
    listed = " x ".join(map(str, shape))
    if not possible:
        raise ValueError(
            f"{name} does not take a batch of images: its input is {listed}; a ViT takes (batch, {count}, height, "
            f"width) or (batch, height, width, {count})"
        )
    if requested is None and len(possible) > 1:
        raise ValueError(
            f"{name} takes {listed}, which does not tell where the colors are; add --layout nchw (batch, {count}, "
            f"height, width) or --layout nhwc (batch, height, width, {count})"
        )
    if requested not in (None, *possible):
        raise ValueError(f"{name} takes {listed}, which is {possible[0]}, not {requested}; omit --layout")
    return requested or possible[0]


def _agreements(layout: Layout, shape: Sequence[int | str]) -> list[bool]:
    """Return for each dynamic axis with a telling name whether a layout agrees with it."""
    return [
        _AXIS_WORDS[word] == axis
        for length, axis in zip(shape, AXES[layout], strict=True)
        if isinstance(length, str) and axis != "batch"
        for word in re.findall("[a-z]+", length.lower())
        if word in _AXIS_WORDS
    ]
