"""One image to its views: crops, turns or mirrors, photometric noise, as `params` says.

All randomness comes from the generator that the caller passes, so the views of an image depend on nothing else: not
on the worker that made them, nor on what was made before. What is drawn is done as Pillow would do it, only faster.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import color as colors
from gtsa_kit.data.augmentation_params import (
    AugmentationParams,
    ViewColorParams,
    sample_augmentation,
    sample_box,
    sample_boxes,
    sample_color_params,
)

__all__ = [
    "Views",
    "apply_augmentations",
    "augment_color",
    "collate",
    "crop_and_rotate",
    "make_views",
    "sample_box",
    "sample_boxes",
]

_STEPS = colors.adjust_brightness, colors.adjust_contrast, colors.adjust_saturation, colors.adjust_hue


class Views(NamedTuple):
    """G global and L local views of one image, or of a batch with B in front of every shape."""

    global_images: Tensor
    """(G, 3, S, S) uint8."""
    local_images: Tensor
    """(L, 3, s, s) uint8."""
    boxes: Tensor
    """(G + L, 4) float32: the crops, globals first, in pixels of the image."""
    rotations: Tensor
    """(G + L,) int64: counter-clockwise quarter turns of each view."""

    def to(self, device: torch.device) -> "Views":
        """The same views on a device."""
        return Views(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> "Views":
        """The same views in page-locked memory (called by the data loader)."""
        return Views(*(tensor.pin_memory() for tensor in self))


def make_views(image: Tensor, config: ViewsConfig, generator: Generator) -> Views:
    """Draw and render the views of a (3, H, W) uint8 image."""
    height, width = image.shape[-2:]
    return apply_augmentations(image, sample_augmentation(height, width, config, generator), config)


def apply_augmentations(image: Tensor, params: AugmentationParams, config: ViewsConfig) -> Views:
    """The views of a (3, H, W) uint8 image that were drawn; fastest where its colors lie side by side."""
    image = image[None].contiguous(memory_format=torch.channels_last)[0]
    n_local = len(params.boxes) - config.global_crops
    global_images = np.empty((config.global_crops, 3, config.global_size, config.global_size), np.uint8)
    local_images = np.empty((n_local, 3, config.local_size, config.local_size), np.uint8)
    plan = zip(
        params.boxes.tolist(), params.rotations.tolist(), params.flips.tolist(), params.colors.rows(), strict=True
    )
    for out, (box, rotation, flip, color) in zip([*global_images, *local_images], plan, strict=True):
        view = _augment_color(crop_and_rotate(image, box, rotation, out.shape[-1]).numpy(), color, config.noise_std)
        out[:] = view[..., ::-1] if flip else view
    images = torch.from_numpy(global_images), torch.from_numpy(local_images)
    return Views(*images, params.boxes.float(), params.rotations)


def collate(views: list[Views]) -> Views:
    """Stack the views of B images."""
    return Views(*(torch.stack(tensors) for tensors in zip(*views, strict=True)))


def crop_and_rotate(image: Tensor, box: list[int], rotation: int, size: int) -> Tensor:
    """The (3, size, size) view of a box: antialiased bicubic resize, then quarter turns, which move pixels exactly.

    Within a level of Pillow's resize. torch's weights have 16 bits, so that where two roundings meet a value can be two
    levels off: one to three of the 150,000 of a global view, in one such view of twenty-five.
    """
    x0, y0, x1, y1 = box
    crop = image[None, :, y0:y1, x0:x1]
    by_columns = columns_first(y1 - y0, x1 - x0, size)
    crop = (crop.mT if by_columns else crop).contiguous(memory_format=torch.channels_last)
    view = F.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0]
    rotated = np.rot90((view.mT if by_columns else view).numpy(), rotation, axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(rotated))  # torch itself takes twice as long for this copy


def columns_first(height: int, width: int, size: int) -> bool:
    """Which of its two passes Pillow does first at these sizes.

    Values are rounded and cut to 0..255 between the passes, so the order shows, by up to ten levels at sharp edges.
    torch always does the rows first; so did Pillow once, and does today where there are not many more of them.
    """
    return height > size and height - size > 2 * (width - size)


def augment_color(view: Tensor, config: ViewsConfig, generator: Generator) -> Tensor:
    """Color jitter in random order, gray, blur, noise, each with its own probability; (3, S, S) uint8 both ways."""
    [color] = sample_color_params(1, config, generator).rows()
    return torch.from_numpy(_augment_color(view.contiguous().numpy(), color, config.noise_std))


def _augment_color(pixels: colors.Image, color: ViewColorParams, noise_std: float) -> colors.Image:
    """(3, S, S) both ways; what is passed stays as it was."""
    for step in color.order:
        pixels = _STEPS[step](pixels, color.factors[step])
    if color.gray:
        pixels = colors.to_grayscale(pixels)
    if color.sigma > 0:
        pixels = colors.gaussian_blur(pixels, color.sigma)
    if noise_std > 0:
        noise = torch.randn(pixels.shape, generator=Generator().manual_seed(color.noise_seed)).numpy()
        pixels = (pixels + noise * np.float32(255 * noise_std)).round().clip(0, 255).astype(np.uint8)
    return pixels
