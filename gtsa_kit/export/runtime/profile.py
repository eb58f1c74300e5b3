"""The ranges that an engine is built for: every dynamic axis of a TensorRT engine has an end."""

from dataclasses import dataclass
from typing import Final

from gtsa_kit.export.spec import Range
from gtsa_kit.export.tensorrt.build import Profile, Shape

LARGEST_SIDE: Final = 512
LARGEST_BATCH: Final = 16
USUAL_BATCH: Final = 8


@dataclass(frozen=True)
class Usual:
    """What an engine is to be best at; None leaves it to us."""

    batch: int | None = None
    size: tuple[int, int] | None = None
    """(height, width)."""


@dataclass(frozen=True)
class Ranges:
    """What an engine takes."""

    batch: Range
    height: Range
    width: Range
    bytes_in: bool = False
    """Whether images are (B, H, W, 3) bytes, not (B, 3, H, W) floats."""

    def bounded(self, usual: Usual) -> "Ranges":
        """The same with an end to every range, which lies no lower than what is usual."""
        height, width = usual.size or (0, 0)
        return Ranges(
            _with_end(self.batch, max(LARGEST_BATCH, usual.batch or 0)),
            _with_end(self.height, max(LARGEST_SIDE, height)),
            _with_end(self.width, max(LARGEST_SIDE, width)),
            self.bytes_in,
        )

    def shape(self, batch: int, height: int, width: int) -> Shape:
        """Of the input."""
        return (batch, height, width, 3) if self.bytes_in else (batch, 3, height, width)


def make_profile(ranges: Ranges, usual: Usual, base: int) -> Profile:
    """The profile of the input for bounded ranges.

    Args:
        ranges: See `Ranges.bounded`.
        usual: What to be best at.
        base: Side that the encoder's images have, which is usual unless told otherwise.

    Raises:
        ValueError: What is usual lies outside the ranges.
    """
    batch = _within(ranges.batch, usual.batch, USUAL_BATCH, "--batch")
    height = _within(ranges.height, usual.size and usual.size[0], base, "--opt-size")
    width = _within(ranges.width, usual.size and usual.size[1], base, "--opt-size")
    ends = ranges.batch.max, ranges.height.max, ranges.width.max
    assert None not in ends, "a profile has ends"
    return Profile(
        ranges.shape(ranges.batch.min, ranges.height.min, ranges.width.min),
        ranges.shape(batch, height, width),
        ranges.shape(*ends),  # type: ignore[arg-type]
    )


def _with_end(allowed: Range, end: int) -> Range:
    return allowed if allowed.max is not None else Range(allowed.min, max(allowed.min, end))


def _within(allowed: Range, wanted: int | None, default: int, option: str) -> int:
    if wanted is None:
        return allowed.clamp(default)
    if wanted != allowed.clamp(wanted):
        raise ValueError(f"{option}: what is usual, {wanted}, does not lie within {allowed.min} to {allowed.max}")
    return wanted
