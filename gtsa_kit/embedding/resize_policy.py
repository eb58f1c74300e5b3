"""The size that each image has as the model's input."""

from dataclasses import dataclass
from typing import Literal

from gtsa_kit.config import PATCH
from gtsa_kit.export.manifest import Manifest

MOST_CELLS = 8192
"""Of one image, where sizes vary: attention grows with the square of the cells, and no machine is without end."""


@dataclass(frozen=True)
class ResizePolicy:
    """Fixed (every image stretched to `side`), by the short side, or native; sides are multiples of the patch."""

    kind: Literal["fixed", "short-side", "native"]
    side: tuple[int, int] = (0, 0)
    """(height, width) if fixed; the short side, twice, if that is what counts."""
    smallest: tuple[int, int] = (PATCH, PATCH)
    largest: tuple[int | None, int | None] = (None, None)
    most_cells: int = MOST_CELLS

    def __call__(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the input for an upright image."""
        if self.kind == "fixed":
            return self.side
        scale = self.side[0] / min(width, height) if self.kind == "short-side" else 1.0
        cells = [max(1.0, scale * length / PATCH) for length in (height, width)]
        if round(cells[0]) * round(cells[1]) > self.most_cells:
            shrink = (self.most_cells / (cells[0] * cells[1])) ** 0.5
            h = max(1, int(cells[0] * shrink))
            w = max(1, min(int(cells[1] * shrink), self.most_cells // h))
            cells = [min(h, self.most_cells // w), w]
        sides = (round(n) * PATCH for n in cells)
        bounds = zip(sides, self.smallest, self.largest, strict=True)
        h, w = (max(low, side if high is None else min(side, high)) for side, low, high in bounds)
        return h, w


def size_rule(
    manifest: Manifest, size: tuple[int, int] | None = None, short_side: int | None = None, native: bool = False
) -> ResizePolicy:
    """What is asked for, within what the model takes.

    Raises:
        ValueError: More than one is asked for, or a size that the model does not take.
    """
    if sum((size is not None, short_side is not None, native)) > 1:
        raise ValueError("choose one of --size, --short-side and --native")
    heights, widths = manifest.range_of("height"), manifest.range_of("width")
    ends = {"smallest": (heights.min, widths.min), "largest": (heights.max, widths.max)}
    if native:
        return ResizePolicy("native", **ends)  # type: ignore[arg-type]
    if short_side is not None:
        if short_side < PATCH or short_side % PATCH:
            raise ValueError(f"--short-side is a multiple of {PATCH}, got {short_side}")
        return ResizePolicy("short-side", (short_side, short_side), **ends)  # type: ignore[arg-type]
    if size is None:
        base = int(manifest.preprocessing["size"])
        return ResizePolicy("fixed", (heights.clamp(base), widths.clamp(base)))
    manifest.check_axis("height", size[0])
    manifest.check_axis("width", size[1])
    return ResizePolicy("fixed", size)
