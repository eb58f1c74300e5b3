"""Input sizes of images: fixed, by the short side, or native."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.models.preprocessing import INTERPOLATIONS, InputImage, image_size, resize_channels

MAX_PATCHES = 8192
"""Maximum patches of one image, where sizes vary: the memory of attention grows with their square."""


@dataclass(frozen=True)
class ResizePolicy:
    """Rule for the model's input size of an image. Both sides of the input are multiples of the patch size.

    `fixed` stretches every image to `size`. `short-side` keeps the aspect ratio and sets the short side. `native`
    rounds the image's own size.
    """

    kind: Literal["fixed", "short-side", "native"]
    size: tuple[int, int] = (0, 0)
    """Input (height, width) of `fixed`; the short side, twice, of `short-side`; unused by `native`."""
    min_size: tuple[int, int] = (1, 1)
    """Smallest (height, width) that the model accepts."""
    max_size: tuple[int | None, int | None] = (None, None)
    """Largest (height, width) that the model accepts; None is unbounded."""
    max_patches: int = MAX_PATCHES
    long_side: int = 0
    """Largest long side of `short-side`, before rounding to patches; 0 is unbounded."""
    crop_from: int = 0
    """Short side to which `fixed` resizes an image before `size` is cut from its center; 0 stretches the image."""
    patch: int = field(kw_only=True)
    """Side of a patch in pixels."""

    @property
    def fixed_grid(self) -> tuple[int, int]:
        """Shape (h, w) of the feature maps of `fixed`."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    def cut(self, image: InputImage, interpolation: str) -> InputImage:
        """Return the part of an upright image that the input shows, in its size where that is a center crop.

        It is that of `Resize(crop_from)` and `CenterCrop(size)` in torchvision. Other policies show the whole image.
        """
        if not self.crop_from:
            return image
        width, height = image_size(image)
        long = int(self.crop_from * max(width, height) / min(width, height))
        size = (self.crop_from, long) if width <= height else (long, self.crop_from)
        (rows, columns), (wide, high) = self.size, size
        left, top = round((wide - columns) / 2), round((high - rows) / 2)
        if isinstance(image, np.ndarray):
            resized = resize_channels(image, (size[1], size[0]), interpolation)
            return resized[top : top + rows, left : left + columns]
        return image.resize(size, INTERPOLATIONS[interpolation]).crop((left, top, left + columns, top + rows))

    def __call__(self, width: int, height: int) -> tuple[int, int]:
        """Return the input's (height, width) for an upright image."""
        if self.kind == "fixed":
            return self.size
        scale = self.size[0] / min(width, height) if self.kind == "short-side" else 1.0
        scale = min(scale, self.long_side / max(width, height)) if self.long_side else scale
        grid = [max(1.0, scale * length / self.patch) for length in (height, width)]
        if round(grid[0]) * round(grid[1]) > self.max_patches:
            shrink = (self.max_patches / (grid[0] * grid[1])) ** 0.5
            h = max(1, int(grid[0] * shrink))
            w = max(1, min(int(grid[1] * shrink), self.max_patches // h))
            grid = [min(h, self.max_patches // w), w]
        sides = (round(n) * self.patch for n in grid)
        bounds = zip(sides, self.min_size, self.max_size, strict=True)
        h, w = (max(low, side if high is None else min(side, high)) for side, low, high in bounds)
        return h, w


def choose_resize_policy(
    manifest: Manifest, size: tuple[int, int] | None = None, short_side: int | None = None, native: bool = False
) -> ResizePolicy:
    """Return the requested policy, within the sizes that the model accepts; by default, the model's base size is fixed.

    Raises:
        ValueError: More than one is requested, or a size that the model does not accept.
    """
    if sum((size is not None, short_side is not None, native)) > 1:
        raise ValueError("choose one of --size, --short-side and --native")
    heights, widths, patch = manifest.range_of("height"), manifest.range_of("width"), manifest.patch
    min_size, max_size = (heights.min, widths.min), (heights.max, widths.max)
    if native:
        return ResizePolicy("native", min_size=min_size, max_size=max_size, patch=patch)
    if short_side is not None:
        if short_side < patch or short_side % patch:
            raise ValueError(f"--short-side must be a multiple of {patch}, got {short_side}")
        long_side = manifest.long_side if short_side == manifest.short_side else 0
        sides = (short_side, short_side)
        return ResizePolicy("short-side", sides, min_size, max_size, long_side=long_side, patch=patch)
    if size is None:
        base = int(manifest.preprocessing["size"])
        sides = heights.clamp(base), widths.clamp(base)
        crop_from = round(manifest.crop_from * max(sides) / base)
        return ResizePolicy("fixed", sides, crop_from=crop_from, patch=patch)
    manifest.check_axis("height", size[0])
    manifest.check_axis("width", size[1])
    return ResizePolicy("fixed", size, patch=patch)
