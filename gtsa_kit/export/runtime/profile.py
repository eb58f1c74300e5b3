"""Shapes that a TensorRT engine is built for: every dynamic axis of an engine has a maximum."""

from dataclasses import dataclass, replace
from typing import Final

from gtsa_kit.export.layout import Layout, arrange
from gtsa_kit.export.spec import Range

Shape = tuple[int, ...]
MAX_SIDE: Final = 512
"""Default maximum of height and width, in pixels, unless the training size is larger."""
MAX_BATCH: Final = 16
"""Default maximum of the batch size."""
OPTIMAL_BATCH: Final = 8
"""Default batch size that an engine is optimized for."""


@dataclass(frozen=True)
class Profile:
    """Optimization profile of the input: the minimum, optimal and maximum shape, as in TensorRT."""

    min: Shape
    opt: Shape
    max: Shape

    @property
    def fixed(self) -> bool:
        """True if the profile has a single shape."""
        return self.min == self.opt == self.max


@dataclass(frozen=True)
class OptimalShape:
    """Batch size and image size that an engine is optimized for; None takes the default."""

    batch: int | None = None
    size: tuple[int, int] | None = None
    """Image size (height, width) in pixels."""


@dataclass(frozen=True)
class InputRanges:
    """Ranges of batch size, height and width that an engine accepts."""

    batch: Range
    height: Range
    width: Range
    layout: Layout = "nchw"
    channels: int = 3

    def bounded(self, optimal: OptimalShape, default_side: int) -> "InputRanges":
        """Return ranges with a maximum on every axis; a default maximum is raised to the optimal shape.

        Args:
            optimal: Shape to optimize for.
            default_side: Height and width to optimize for where `optimal` has no size, in pixels.
        """
        height, width = optimal.size or (default_side, default_side)
        return InputRanges(
            _bounded(self.batch, max(MAX_BATCH, optimal.batch or 0)),
            _bounded(self.height, max(MAX_SIDE, height)),
            _bounded(self.width, max(MAX_SIDE, width)),
            self.layout,
            self.channels,
        )

    def shape(self, batch: int, height: int, width: int) -> Shape:
        """Return the shape of the input tensor."""
        return arrange(self.layout, batch, height, width, self.channels)


def make_profile(ranges: InputRanges, optimal: OptimalShape, default_side: int) -> Profile:
    """Build the optimization profile of the input.

    Args:
        ranges: Bounded ranges (`InputRanges.bounded`).
        optimal: Shape to optimize for.
        default_side: Height and width to optimize for where `optimal` has no size, in pixels.

    Raises:
        ValueError: The optimal shape lies outside the ranges.
    """
    batch = _optimal(ranges.batch, optimal.batch, OPTIMAL_BATCH, "--batch")
    height = _optimal(ranges.height, optimal.size and optimal.size[0], default_side, "--opt-size")
    width = _optimal(ranges.width, optimal.size and optimal.size[1], default_side, "--opt-size")
    maxima = ranges.batch.max, ranges.height.max, ranges.width.max
    assert None not in maxima, "the ranges of a profile are bounded"
    return Profile(
        ranges.shape(ranges.batch.min, ranges.height.min, ranges.width.min),
        ranges.shape(batch, height, width),
        ranges.shape(*maxima),  # type: ignore[arg-type]
    )


def _bounded(allowed: Range, maximum: int) -> Range:
    rounded = maximum // allowed.step * allowed.step
    return allowed if allowed.max is not None else replace(allowed, max=max(allowed.min, rounded))


def _optimal(allowed: Range, requested: int | None, default: int, option: str) -> int:
    if requested is None:
        return allowed.clamp(default)
    if requested != allowed.clamp(requested):
        steps = "" if allowed.step == 1 else f" in steps of {allowed.step}"
        raise ValueError(
            f"{option}: the optimal value {requested} is not within {allowed.min} to {allowed.max}{steps}; the nearest "
            f"is {allowed.clamp(requested)}"
        )
    return requested
