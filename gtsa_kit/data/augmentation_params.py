"""Everything that is random about the views of an image, as plain numbers: what is drawn here is only done later.

Every number comes from the generator that the caller passes, and a quantity that is switched off is drawn all the same:
so two configurations that differ in one of them agree in all others.
"""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from gtsa_kit.config import ViewsConfig

ATTEMPTS = 50
"""Crops drawn before one is taken that can't fail: a thin image may have no other."""
STEPS = ("brightness", "contrast", "saturation", "hue")
"""Of color jitter, in the order of `ColorParams.factors`."""

_ORDERS = np.array(list(permutations(range(len(STEPS)))))
_MOST = np.array([0.8, 0.8, 0.8, 0.2])  # how far each step goes at strength 1

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ViewColorParams:
    """What is done to the pixels of one view."""

    order: list[int]
    """Of the `STEPS` of color jitter; empty for none."""
    factors: list[float]
    """Of each of the `STEPS`."""
    gray: bool
    sigma: float
    """Of the blur, in pixels; 0 for none."""
    noise_seed: int


class ColorParams(NamedTuple):
    """What is done to the pixels of V views; a view's row says nothing about another's."""

    jittered: Tensor
    """(V,) bool."""
    factors: Tensor
    """(V, 4) float64: brightness, contrast, saturation (1 changes nothing) and hue (0 changes nothing; 1 is a turn)."""
    orders: Tensor
    """(V, 4) int64: which of the `STEPS` is first, second, third, last."""
    gray: Tensor
    """(V,) bool."""
    sigmas: Tensor
    """(V,) float64: of the blur, in pixels of the view; 0 for none."""
    noise_seeds: Tensor
    """(V,) int64."""

    def rows(self) -> list[ViewColorParams]:
        """View by view."""
        jittered, factors, orders, *rest = (tensor.tolist() for tensor in self)
        orders = [order if any_ else [] for order, any_ in zip(orders, jittered, strict=True)]
        return list(map(ViewColorParams, orders, factors, *rest))


class AugmentationParams(NamedTuple):
    """All that makes the views of an image: globals first."""

    boxes: Tensor
    """(V, 4) int64: crops, in pixels of the image."""
    rotations: Tensor
    """(V,) int64: counter-clockwise quarter turns."""
    flips: Tensor
    """(V,) bool: whether the finished view is mirrored left to right."""
    colors: ColorParams


def sample_augmentation(height: int, width: int, config: ViewsConfig, generator: Generator) -> AugmentationParams:
    """All that is random about the views of an image of this size."""
    boxes = sample_boxes(height, width, config, generator)
    chances = torch.rand(2, len(boxes), generator=generator, dtype=torch.float64)
    rotations = (chances[0] * 4).long() if config.rotate else torch.zeros(len(boxes), dtype=torch.long)
    return AugmentationParams(
        boxes, rotations, chances[1] < config.hflip_p, sample_color_params(len(boxes), config, generator)
    )


def sample_color_params(count: int, config: ViewsConfig, generator: Generator) -> ColorParams:
    """What is done to the pixels of so many views: jitter in random order, gray, blur, each at its own rate."""
    u = torch.rand(10, count, generator=generator, dtype=torch.float64).numpy()
    jittered = (u[0] < config.jitter_p) & (config.jitter_strength > 0)
    most = _MOST * config.jitter_strength
    low = np.array([*np.maximum(0, 1 - most[:3]), -most[3]])
    high = np.array([*(1 + most[:3]), most[3]])
    factors = low + (high - low) * u[1:5].T
    orders = _ORDERS[(u[5] * len(_ORDERS)).astype(np.int64)]
    least, largest = config.blur_sigma
    sigmas = np.where(u[7] < config.blur_p, least + (largest - least) * u[8], 0)
    drawn = (jittered, factors, orders, u[6] < config.grayscale_p, sigmas, (u[9] * 2**53).astype(np.int64))
    return ColorParams(*map(torch.from_numpy, drawn))


def sample_boxes(height: int, width: int, config: ViewsConfig, generator: Generator) -> Tensor:
    """Crops (G + L, 4), whole pixels, that keep the overlap rule: all pairs of globals, each local with each global.

    Drawn by rejection. After `ATTEMPTS` the whole image is taken: it overlaps every global crop in all of that
    crop, so the rule holds for any image.
    """
    uniforms = _Uniforms(generator)
    globals_: list[Box] = []
    locals_: list[Box] = []
    plan = [(globals_, config.global_area, config.min_global_overlap)] * config.global_crops
    plan += [(locals_, config.local_area, config.min_overlap)] * config.local_crops
    for crops, area, overlap in plan:
        least = overlap * width * height
        for _ in range(ATTEMPTS):
            box = _sample_box(height, width, area, config.aspect, uniforms)
            if all(_shared(box, other) >= least for other in globals_):
                break
        else:
            box = (0, 0, width, height)
        crops.append(box)
    return torch.tensor(globals_ + locals_)


def sample_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], generator: Generator
) -> Tensor:
    """One crop (4,): share of the image uniform in `area`, aspect log-uniform, place uniform.

    Where no crop of that aspect fits (a thin image), the aspect gives way and the area stays, since the overlap
    rule is about area.
    """
    return torch.tensor(_sample_box(height, width, area, aspect, _Uniforms(generator)))


class _Uniforms:
    """Numbers of [0, 1) one by one, drawn many at a time: a draw for each would cost more than what is done with it."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._left: list[float] = []

    def __call__(self) -> float:
        if not self._left:
            self._left = torch.rand(64, generator=self._generator, dtype=torch.float64).tolist()
        return self._left.pop()


def _sample_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], uniforms: _Uniforms
) -> Box:
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        share = (area[0] + (area[1] - area[0]) * uniforms()) * height * width
        ratio = math.exp(low + (high - low) * uniforms())
        w, h = round(math.sqrt(share * ratio)), round(math.sqrt(share / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        if width < height:
            w = min(width, max(1, round(math.sqrt(share))))
            h = min(height, max(1, round(share / w)))
        else:
            h = min(height, max(1, round(math.sqrt(share))))
            w = min(width, max(1, round(share / h)))
    x0, y0 = int(uniforms() * (width - w + 1)), int(uniforms() * (height - h + 1))
    return x0, y0, x0 + w, y0 + h


def _shared(a: Box, b: Box) -> int:
    """Pixels that two boxes have in common."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
