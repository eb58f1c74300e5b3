"""Sampling of the random parameters of augmentation, which `augment` and `batched_augment` apply.

All random numbers come from the caller's generator. Disabled augmentations are sampled as well, so that two
configurations that differ in one setting have the same values of all other parameters.
"""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from gtsa_kit.config import ViewsConfig

MAX_ATTEMPTS = 50
"""Rejected crops after which the whole image is used: a thin image may have no other valid crop."""
JITTER_STEPS = ("brightness", "contrast", "saturation", "hue")
"""Steps of color jitter, in the order of `ColorParams.factors`."""

_ORDERS = np.array(list(permutations(range(len(JITTER_STEPS)))))
_MAX_CHANGE = np.array([0.8, 0.8, 0.8, 0.2])  # largest change of each step at strength 1

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ViewColorParams:
    """Color augmentation of one view."""

    order: list[int]
    """Order of the `JITTER_STEPS`; empty for no color jitter."""
    factors: list[float]
    """Factor of each of the `JITTER_STEPS`."""
    gray: bool
    """True if the view is converted to grayscale."""
    sigma: float
    """Standard deviation of the blur, in pixels; 0 for no blur."""
    noise_seed: int
    """Seed of the generator of the noise."""


class ColorParams(NamedTuple):
    """Color augmentation of V views, sampled independently."""

    jittered: Tensor
    """Views with color jitter, (V,) bool."""
    factors: Tensor
    """Factors (V, 4) float64: brightness, contrast, saturation (1 is neutral), hue (0 is neutral, 1 a full circle)."""
    orders: Tensor
    """Order (V, 4) int64 of the `JITTER_STEPS`, by their index, first to last."""
    gray: Tensor
    """Views that are converted to grayscale, (V,) bool."""
    sigmas: Tensor
    """Standard deviations (V,) float64 of the blur, in pixels of the view; 0 for no blur."""
    noise_seeds: Tensor
    """Seeds (V,) int64 of the noise."""

    def rows(self) -> list[ViewColorParams]:
        """Return the parameters of each view."""
        jittered, factors, orders, *rest = (tensor.tolist() for tensor in self)
        orders = [order if is_jittered else [] for order, is_jittered in zip(orders, jittered, strict=True)]
        return list(map(ViewColorParams, orders, factors, *rest))


class AugmentationParams(NamedTuple):
    """Random parameters of the V views of an image, globals first."""

    boxes: Tensor
    """Crops (V, 4) int64 as x0, y0, x1, y1 in pixels of the image."""
    rotations: Tensor
    """Rotation k of each view (V,) int64, by k * 90 degrees counter-clockwise."""
    flips: Tensor
    """Views that are mirrored left to right after rotation, (V,) bool."""
    colors: ColorParams


def sample_augmentation(height: int, width: int, config: ViewsConfig, generator: Generator) -> AugmentationParams:
    """Sample the parameters of all views of an image of this size in pixels."""
    boxes = sample_boxes(height, width, config, generator)
    chances = torch.rand(2, len(boxes), generator=generator, dtype=torch.float64)
    rotations = (chances[0] * 4).long() if config.rotate else torch.zeros(len(boxes), dtype=torch.long)
    colors = sample_color_params(len(boxes), config, generator)
    if config.blur_side:
        sides = [config.global_size] * config.global_crops + [config.local_size] * config.local_crops
        colors = colors._replace(sigmas=colors.sigmas * torch.tensor(sides) / config.blur_side)
    return AugmentationParams(boxes, rotations, chances[1] < config.hflip_p, colors)


def sample_color_params(count: int, config: ViewsConfig, generator: Generator) -> ColorParams:
    """Sample the color augmentation of `count` views: jitter in random order, grayscale, blur and noise seeds."""
    u = torch.rand(10, count, generator=generator, dtype=torch.float64).numpy()
    jittered = (u[0] < config.jitter_p) & (config.jitter_strength > 0)
    limit = _MAX_CHANGE * config.jitter_strength
    low = np.array([*np.maximum(0, 1 - limit[:3]), -limit[3]])
    high = np.array([*(1 + limit[:3]), limit[3]])
    factors = low + (high - low) * u[1:5].T
    orders = _ORDERS[(u[5] * len(_ORDERS)).astype(np.int64)]
    min_sigma, max_sigma = config.blur_sigma
    sigmas = np.where(u[7] < config.blur_p, min_sigma + (max_sigma - min_sigma) * u[8], 0)
    params = (jittered, factors, orders, u[6] < config.grayscale_p, sigmas, (u[9] * 2**53).astype(np.int64))
    return ColorParams(*map(torch.from_numpy, params))


def sample_boxes(height: int, width: int, config: ViewsConfig, generator: Generator) -> Tensor:
    """Sample crops (G + L, 4) int64 that overlap enough: all pairs of globals, and each local with each global.

    Crops are sampled by rejection. After `MAX_ATTEMPTS` the whole image is used: it contains every other crop, so the
    overlap is always large enough.
    """
    uniforms = _Uniforms(generator)
    globals_: list[Box] = []
    locals_: list[Box] = []
    plan = [(globals_, config.global_area, config.min_global_overlap)] * config.global_crops
    plan += [(locals_, config.local_area, config.min_overlap)] * config.local_crops
    for crops, area, overlap in plan:
        min_pixels = overlap * width * height
        for _ in range(MAX_ATTEMPTS):
            box = _sample_box(height, width, area, config.aspect, uniforms)
            if all(_intersection_area(box, other) >= min_pixels for other in globals_):
                break
        else:
            box = (0, 0, width, height)
        crops.append(box)
    return torch.tensor(globals_ + locals_)


def sample_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], generator: Generator
) -> Tensor:
    """Sample one crop (4,) int64 with uniform area (a fraction of the image), log-uniform aspect and uniform position.

    If no crop of the sampled aspects fits (a thin image), the area is kept and the aspect changed, because the required
    overlap is an area.
    """
    return torch.tensor(_sample_box(height, width, area, aspect, _Uniforms(generator)))


class _Uniforms:
    """Uniform random numbers in [0, 1), sampled 64 at a time, because one call of torch per number would be slow."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._remaining: list[float] = []

    def __call__(self) -> float:
        if not self._remaining:
            self._remaining = torch.rand(64, generator=self._generator, dtype=torch.float64).tolist()
        return self._remaining.pop()


def _sample_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], uniforms: _Uniforms
) -> Box:
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        target_area = (area[0] + (area[1] - area[0]) * uniforms()) * height * width
        ratio = math.exp(low + (high - low) * uniforms())
        w, h = round(math.sqrt(target_area * ratio)), round(math.sqrt(target_area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        if width < height:
            w = min(width, max(1, round(math.sqrt(target_area))))
            h = min(height, max(1, round(target_area / w)))
        else:
            h = min(height, max(1, round(math.sqrt(target_area))))
            w = min(width, max(1, round(target_area / h)))
    x0, y0 = int(uniforms() * (width - w + 1)), int(uniforms() * (height - h + 1))
    return x0, y0, x0 + w, y0 + h


def _intersection_area(a: Box, b: Box) -> int:
    """Return the area in pixels of the intersection of two boxes."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
