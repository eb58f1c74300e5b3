"""One photograph to its views: crops, turns or mirrors, photometric noise. All randomness of the input lives here.

Every draw comes from the generator that the caller passes, so the views of a photograph depend on nothing else: not on
the worker that made them, nor on what was made before.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import ViewsConfig
from gtsa_kit.geometry import box_area, intersect

ATTEMPTS = 50
"""Crops drawn before one is taken that can't fail: a thin photograph may have no other."""


class Views(NamedTuple):
    """G global and L local views of one photograph, or of a batch with B in front of every shape."""

    global_images: Tensor
    """(G, 3, S, S) uint8."""
    local_images: Tensor
    """(L, 3, s, s) uint8."""
    boxes: Tensor
    """(G + L, 4) float32: the crops, globals first, in pixels of the photograph."""
    turns: Tensor
    """(G + L,) int64: counter-clockwise quarter turns of each view."""

    def to(self, device: torch.device) -> "Views":
        """The same views on a device."""
        return Views(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> "Views":
        """The same views in page-locked memory (called by the data loader)."""
        return Views(*(tensor.pin_memory() for tensor in self))


def make_views(photograph: Tensor, config: ViewsConfig, generator: Generator) -> Views:
    """Draw and render the views of a (3, H, W) uint8 photograph."""
    height, width = photograph.shape[-2:]
    boxes = draw_boxes(height, width, config, generator)
    turns = torch.randint(4, (len(boxes),), generator=generator)
    if not config.quarter_turns:  # drawn all the same: crops and noise are those of a run with turns
        turns = torch.zeros_like(turns)
    split = config.global_crops

    def render(part: slice, size: int) -> Tensor:
        views = [
            photometric(crop_and_turn(photograph, box, turn, size), config, generator)
            for box, turn in zip(boxes[part].tolist(), turns[part].tolist(), strict=True)
        ]
        return torch.stack(views) if views else torch.empty(0, 3, size, size, dtype=torch.uint8)

    global_images = render(slice(0, split), config.global_size)
    local_images = render(slice(split, None), config.local_size)
    if config.flip_p > 0:  # drawn last, for the same reason
        mirrored = torch.rand(len(boxes), generator=generator) < config.flip_p
        global_images, local_images = _mirror(global_images, mirrored[:split]), _mirror(local_images, mirrored[split:])
    return Views(global_images, local_images, boxes.float(), turns)


def collate(views: list[Views]) -> Views:
    """Stack the views of B photographs."""
    return Views(*(torch.stack(tensors) for tensors in zip(*views, strict=True)))


def draw_boxes(height: int, width: int, config: ViewsConfig, generator: Generator) -> Tensor:
    """Crops (G + L, 4), whole pixels, that keep the overlap rule: all pairs of globals, each local with each global.

    Drawn by rejection. After `ATTEMPTS` the whole photograph is taken: it overlaps every global crop in all of that
    crop, so the rule holds for any photograph.
    """
    whole = torch.tensor([0, 0, width, height])
    globals_: list[Tensor] = []
    locals_: list[Tensor] = []
    plan = [(globals_, config.global_area, config.min_global_overlap)] * config.global_crops
    plan += [(locals_, config.local_area, config.min_overlap)] * config.local_crops
    for crops, area, overlap in plan:
        least = overlap * width * height
        for _ in range(ATTEMPTS):
            box = draw_box(height, width, area, config.aspect, generator)
            if not globals_ or bool((box_area(intersect(box, torch.stack(globals_))) >= least).all()):
                break
        else:
            box = whole
        crops.append(box)
    return torch.stack(globals_ + locals_)


def draw_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], generator: Generator
) -> Tensor:
    """One crop (4,): share of the photograph uniform in `area`, aspect log-uniform, place uniform.

    Where no crop of that aspect fits (a thin photograph), the aspect gives way and the area stays, since the overlap
    rule is about area.
    """
    for _ in range(10):
        share = _uniform(*area, generator) * height * width
        ratio = math.exp(_uniform(math.log(aspect[0]), math.log(aspect[1]), generator))
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
    x0 = int(torch.randint(width - w + 1, (), generator=generator))
    y0 = int(torch.randint(height - h + 1, (), generator=generator))
    return torch.tensor([x0, y0, x0 + w, y0 + h])


def crop_and_turn(photograph: Tensor, box: list[int], turn: int, size: int) -> Tensor:
    """The (3, size, size) view of a box: antialiased bicubic resize, then quarter turns, which move pixels exactly."""
    x0, y0, x1, y1 = box
    view = tv.resized_crop(
        photograph, y0, x0, y1 - y0, x1 - x0, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return torch.rot90(view, turn, dims=(-2, -1)).contiguous()


def photometric(view: Tensor, config: ViewsConfig, generator: Generator) -> Tensor:
    """Colour jitter in random order, grey, blur, noise, each with its own probability; (3, S, S) uint8 both ways."""
    if _chance(config.jitter_p, generator) and config.jitter_strength > 0:
        view = _jitter(view, config.jitter_strength, generator)
    if _chance(config.grey_p, generator):
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    if _chance(config.blur_p, generator):
        sigma = _uniform(*config.blur_sigma, generator)
        reach = min(math.ceil(3 * sigma), view.shape[-1] - 1)  # beyond three sigma lies 0.3% of the weight
        view = tv.gaussian_blur(view, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])
    if config.noise_std > 0:
        noise = torch.randn(view.shape, generator=generator) * (255 * config.noise_std)
        view = (view + noise).round().clamp(0, 255).to(torch.uint8)
    return view


def _jitter(view: Tensor, strength: float, generator: Generator) -> Tensor:
    def factor(most: float) -> float:
        return _uniform(max(0.0, 1 - most * strength), 1 + most * strength, generator)

    steps = [
        partial(tv.adjust_brightness, brightness_factor=factor(0.8)),
        partial(tv.adjust_contrast, contrast_factor=factor(0.8)),
        partial(tv.adjust_saturation, saturation_factor=factor(0.8)),
        partial(tv.adjust_hue, hue_factor=_uniform(-0.2 * strength, 0.2 * strength, generator)),
    ]
    for index in torch.randperm(len(steps), generator=generator).tolist():
        view = steps[index](view)
    return view


def _mirror(images: Tensor, which: Tensor) -> Tensor:
    """(V, 3, S, S), some of them left to right."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _chance(p: float, generator: Generator) -> bool:
    return _uniform(0.0, 1.0, generator) < p
