"""The views of a photograph the obvious way: Pillow and torchvision, one call for each thing that is done.

It is told what was drawn, so that what it makes can be held against what the package makes of the same draws.
"""

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augmentation_params import Draws

JITTER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def plain_crop(photograph: Image.Image, box: list[int], turn: int, size: int) -> Image.Image:
    """A crop, resized, then turned counter-clockwise."""
    view = photograph.crop(tuple(box)).resize((size, size), Image.Resampling.BICUBIC)
    return view.transpose(getattr(Image.Transpose, f"ROTATE_{90 * turn}")) if turn else view


def plain_views(photograph: Image.Image, draws: Draws, config: ViewsConfig) -> list[np.ndarray]:
    """(S, S, 3) uint8 views, globals first."""
    views = []
    for index, (box, turn) in enumerate(zip(draws.boxes.tolist(), draws.turns.tolist(), strict=True)):
        size = config.global_size if index < config.global_crops else config.local_size
        view = plain_colours(plain_crop(photograph, box, turn, size), draws, index)
        if config.noise_std:
            generator = torch.Generator().manual_seed(int(draws.colours.noise_seeds[index]))
            noise = torch.randn(3, size, size, generator=generator).permute(1, 2, 0).numpy() * (255 * config.noise_std)
            view = Image.fromarray((np.asarray(view) + noise).round().clip(0, 255).astype(np.uint8))
        if draws.flips[index]:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(np.asarray(view))
    return views


def plain_colours(view: Image.Image, draws: Draws, index: int) -> Image.Image:
    """Jitter, grey and blur of one view."""
    colours = draws.colours
    if colours.jittered[index]:
        for step in colours.orders[index].tolist():
            view = JITTER[step](view, float(colours.factors[index, step]))
    if colours.grey[index]:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    if colours.sigmas[index] > 0:
        view = view.filter(ImageFilter.GaussianBlur(float(colours.sigmas[index])))
    return view
