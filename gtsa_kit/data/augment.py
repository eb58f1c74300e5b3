"""Multi-crop augmentation of one image: crops, rotations or mirroring, and color augmentation.

All random numbers come from the caller's generator, so the views of an image depend neither on the worker that makes
them nor on other images. Pixels match Pillow's up to rounding, at several times its speed.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gtsa_kit.config import ChannelsConfig, ViewsConfig
from gtsa_kit.data import color
from gtsa_kit.data.augmentation_params import (
    AugmentationParams,
    ViewColorParams,
    sample_augmentation,
    sample_color_params,
)
from gtsa_kit.data.channel_color import augment_channels, drop_channels
from gtsa_kit.data.channels.value_range import ChannelRange

_JITTER = color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue


class Views(NamedTuple):
    """G global and L local views of one image; a batch has B in front of every shape."""

    global_images: Tensor
    """Global views (G, 3, S, S) uint8; of other channels (G, N, S, S) float32, in the units of the file."""
    local_images: Tensor
    """Local views (L, 3, s, s) uint8, or (L, N, s, s) float32."""
    boxes: Tensor
    """Crops (G + L, 4) float32 as x0, y0, x1, y1 in pixels of the image, globals first."""
    rotations: Tensor
    """Rotation k of each view (G + L,) int64, by k * 90 degrees counter-clockwise."""

    def to(self, device: torch.device) -> "Views":
        """Return the views on a device."""
        return Views(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> "Views":
        """Return the views in page-locked memory (called by the data loader)."""
        return Views(*(tensor.pin_memory() for tensor in self))


def make_views(
    image: Tensor, config: ViewsConfig, generator: Generator, channels: ChannelsConfig | None = None
) -> Views:
    """Sample augmentation parameters and make the views of an image; see `apply_augmentations`."""
    height, width = image.shape[-2:]
    return apply_augmentations(image, sample_augmentation(height, width, config, generator), config, channels)


def apply_augmentations(
    image: Tensor, params: AugmentationParams, config: ViewsConfig, channels: ChannelsConfig | None = None
) -> Views:
    """Make the views of an image; fastest if its memory layout is channels-last.

    Args:
        image: (3, H, W) uint8 of RGB, or (N, H, W) float32 of the channels of the settings.
        params: Parameters of the views.
        config: Settings of the views.
        channels: Channels of the images with their ranges; None for 8-bit RGB.
    """
    image = image[None].contiguous(memory_format=torch.channels_last)[0]
    limits = None if channels is None or channels.is_rgb else ChannelRange.of(channels)
    count, dtype = len(image), np.uint8 if limits is None else np.float32
    n_local = len(params.boxes) - config.global_crops
    global_images = np.empty((config.global_crops, count, config.global_size, config.global_size), dtype)
    local_images = np.empty((n_local, count, config.local_size, config.local_size), dtype)
    geometry = params.boxes.tolist(), params.rotations.tolist(), params.flips.tolist()
    per_view = zip([*global_images, *local_images], *geometry, params.colors.rows(), strict=True)
    for out, box, rotation, flip, color_params in per_view:
        view = crop_and_rotate(image, box, rotation, out.shape[-1], config.interpolation).numpy()
        view = _augment_view(view, color_params, config, limits)
        out[:] = view[..., ::-1] if flip else view
    images = torch.from_numpy(global_images), torch.from_numpy(local_images)
    return Views(*images, params.boxes.float(), params.rotations)


def collate(views: list[Views]) -> Views:
    """Stack the views of B images into a batch."""
    return Views(*(torch.stack(tensors) for tensors in zip(*views, strict=True)))


def crop_and_rotate(
    image: Tensor, box: list[int], rotation: int, size: int, interpolation: Literal["bicubic", "bilinear"] = "bicubic"
) -> Tensor:
    """Crop a box of (N, H, W), resize it to (N, size, size) with antialiasing, and rotate it by k * 90 degrees.

    Values of uint8 are within one level (of 255) of Pillow's resize, with rare exceptions: torch's 16-bit weights can
    make two roundings add up to two levels. Measured: one to three of 150,000 values, in one global view of 25.
    """
    x0, y0, x1, y1 = box
    crop = image[None, :, y0:y1, x0:x1]
    by_columns = columns_first(y1 - y0, x1 - x0, size)
    crop = (crop.mT if by_columns else crop).contiguous(memory_format=torch.channels_last)
    view = F.interpolate(crop, (size, size), mode=interpolation, antialias=True)[0]
    rotated = np.rot90((view.mT if by_columns else view).numpy(), rotation, axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(rotated))  # a copy by torch takes twice as long


def columns_first(height: int, width: int, size: int) -> bool:
    """Return whether Pillow resizes the columns before the rows at these sizes.

    Values are rounded and clipped to 0..255 between the two passes, so their order changes values by up to ten levels
    at sharp edges. torch always resizes the rows first; Pillow does so unless there are many more rows than columns.
    """
    return height > size and height - size > 2 * (width - size)


def _augment_view(
    view: np.ndarray, params: ViewColorParams, config: ViewsConfig, limits: ChannelRange | None
) -> np.ndarray:
    """Return a view (N, S, S) after the changes of its values: by Pillow's arithmetic for 8-bit RGB."""
    if limits is None:
        view = _augment_color(view, params, config.noise_std)
    else:
        view = augment_channels(view, params, config.noise_std, limits)
    if config.channel_drop_p > 0:
        view = drop_channels(view, config.channel_drop_p, params.noise_seed + 1)
    return view


def augment_color(
    view: Tensor, config: ViewsConfig, generator: Generator, limits: ChannelRange | None = None
) -> Tensor:
    """Return a (3, S, S) uint8 view after color jitter in random order, grayscale, blur and noise.

    Views of other channels are (N, S, S) float32, with the range of each channel.
    """
    [params] = sample_color_params(1, config, generator).rows()
    pixels = view.contiguous().numpy()
    if limits is not None:
        return torch.from_numpy(augment_channels(pixels, params, config.noise_std, limits))
    return torch.from_numpy(_augment_color(pixels, params, config.noise_std))


def _augment_color(pixels: color.Image, params: ViewColorParams, noise_std: float) -> color.Image:
    """Return new (3, S, S) pixels; the argument is not changed."""
    for step in params.order:
        pixels = _JITTER[step](pixels, params.factors[step])
    if params.gray:
        pixels = color.to_grayscale(pixels)
    if params.sigma > 0:
        pixels = color.gaussian_blur(pixels, params.sigma)
    if noise_std > 0:
        noise = torch.randn(pixels.shape, generator=Generator().manual_seed(params.noise_seed)).numpy()
        pixels = (pixels + noise * np.float32(255 * noise_std)).round().clip(0, 255).astype(np.uint8)
    return pixels
