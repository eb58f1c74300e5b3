"""Views of an image by plain calls of Pillow and torchvision, one call for each operation.

The augmentation parameters are given, so that the views can be compared with those of the package.
"""

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augmentation_params import AugmentationParams

JITTER = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def plain_crop(
    image: Image.Image, box: list[int], rotation: int, size: int, interpolation: str = "bicubic"
) -> Image.Image:
    """Crop, resize, then rotate by rotation * 90 degrees counter-clockwise."""
    view = image.crop(tuple(box)).resize((size, size), Image.Resampling[interpolation.upper()])
    return view.transpose(getattr(Image.Transpose, f"ROTATE_{90 * rotation}")) if rotation else view


def plain_views(image: Image.Image, params: AugmentationParams, config: ViewsConfig) -> list[np.ndarray]:
    """Make the views (S, S, 3) uint8, globals first."""
    views = []
    for index, (box, rotation) in enumerate(zip(params.boxes.tolist(), params.rotations.tolist(), strict=True)):
        size = config.global_size if index < config.global_crops else config.local_size
        view = augment_color_plain(plain_crop(image, box, rotation, size, config.interpolation), params, index)
        if config.noise_std:
            generator = torch.Generator().manual_seed(int(params.colors.noise_seeds[index]))
            noise = torch.randn(3, size, size, generator=generator).permute(1, 2, 0).numpy() * (255 * config.noise_std)
            view = Image.fromarray((np.asarray(view) + noise).round().clip(0, 255).astype(np.uint8))
        if params.flips[index]:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(np.asarray(view))
    return views


def augment_color_plain(view: Image.Image, params: AugmentationParams, index: int) -> Image.Image:
    """Apply color jitter, grayscale and blur to one view."""
    colors = params.colors
    if colors.jittered[index]:
        for step in colors.orders[index].tolist():
            view = JITTER[step](view, float(colors.factors[index, step]))
    if colors.gray[index]:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    if colors.sigmas[index] > 0:
        view = view.filter(ImageFilter.GaussianBlur(float(colors.sigmas[index])))
    return view
