"""Augmentation for fine-tuning, with the transforms of torchvision and timm.

Random numbers come from the global generators of torch, numpy and Python, which `samples.seeded` seeds for each sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.task_color import ChannelSamples, ColorJitter, fill_values, random_uniform

Interpolation = Literal["bicubic", "bilinear"]
INTERPOLATION_MODES = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}
"""Interpolations of torchvision."""
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class SegmentAugment:
    """Augmentation of an image and its mask: random scale, crop, mirroring and color; smaller images are padded.

    The crop is cut out of the image before it is resized, so large images cost little. Labels are resized by the
    nearest pixel, centers aligned. Padding on the right and below is void, with the mean color.
    """

    size: tuple[int, int]
    """Height and width of the result, in pixels."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale."""
    short_side: int | None = None
    """Short side of an image at scale 1, in pixels; None is the image's own."""
    long_side: int | None = None
    """Largest long side at scale 1, in pixels."""
    max_class_share: float = 0.75
    """Share of the pixels with a class above which one class is too frequent in a crop, and another is tried."""
    tries: int = 10
    """Number of crops that are tried; the last one is kept."""
    hflip: float = 0.5
    """Probability of mirroring."""
    color: ColorJitter | None = field(default_factory=ColorJitter)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Color of the padding, 0 to 1; of samples that are not 8-bit, in their own units."""
    interpolation: Interpolation = "bilinear"
    """Antialiased interpolation of the image."""
    channels: ChannelSamples | None = None
    """Samples of other channels than 8-bit RGB."""

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment (3, H, W) uint8 and (H, W) uint8 to (3, *size) and (*size) uint8.

        Other channels are (N, H, W) float32, and so is the result.
        """
        height, width = labels.shape
        scale = self._base_scale(height, width) * random_uniform(*self.scale)
        cut = tuple(min(side, math.ceil(to / scale)) for side, to in zip((height, width), self.size, strict=True))
        resized = [min(to, max(1, round(side * scale))) for side, to in zip(cut, self.size, strict=True)]
        rows, columns = self._choose_crop(labels, (cut[0], cut[1]))
        mode = INTERPOLATION_MODES[self.interpolation]
        image = v2.functional.resize(image[:, rows, columns], resized, mode, antialias=True)
        labels = F.interpolate(labels[None, None, rows, columns], resized, mode="nearest-exact")[0, 0]
        both = tv_tensors.Image(image), tv_tensors.Mask(labels)
        image, labels = self._after_crop((self.size[0] - resized[0], self.size[1] - resized[1]))(*both)
        return image.as_subclass(Tensor), labels.as_subclass(Tensor)

    def _base_scale(self, height: int, width: int) -> float:
        scale = self.short_side / min(height, width) if self.short_side else 1.0
        return min(scale, self.long_side / max(height, width)) if self.long_side else scale

    def _choose_crop(self, labels: Tensor, size: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of a random crop in which no class is too frequent, or of the last one tried."""
        pixels = labels.numpy()
        for _ in range(self.tries):
            top, left = (random_integer(whole - part + 1) for whole, part in zip(pixels.shape, size, strict=True))
            rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
            counts = np.bincount(pixels[rows, columns].ravel(), minlength=VOID + 1)[:VOID]
            if 0 < counts.max() <= self.max_class_share * counts.sum():
                break
        return rows, columns

    def _after_crop(self, missing: tuple[int, int]) -> v2.Transform:
        fill = {tv_tensors.Image: fill_values(self.mean, self.channels), tv_tensors.Mask: VOID}
        steps = [v2.RandomHorizontalFlip(self.hflip), *(self.color.transforms(self.channels) if self.color else [])]
        return v2.Compose([*steps, v2.Pad([0, 0, missing[1], missing[0]], fill=fill)])


@dataclass(frozen=True)
class ClassifyAugment:
    """Augmentation of an image with a class: random crop, mirroring, color, timm's RandAugment, and erasing."""

    size: tuple[int, int]
    """Height and width of the result, in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's aspect ratio."""
    hflip: float = 0.5
    """Probability of mirroring."""
    color: ColorJitter | None = None
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """Policy in timm's notation; "" is none."""
    erase: float = 0.25
    """Probability that a rectangle is replaced by noise of the mean color and its standard deviation."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Color of what RandAugment uncovers, and mean of the noise, 0 to 1; of samples that are not 8-bit, in their own
    units."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of the noise, in the units of `mean`."""
    interpolation: Interpolation = "bicubic"
    """Antialiased interpolation of the crop."""
    channels: ChannelSamples | None = None
    """Samples of other channels than 8-bit RGB, which RandAugment can't change."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a policy that timm does not know, or that the channels do not have."""
        if self.rand_augment and self.channels:
            raise ValueError("RandAugment changes 8-bit RGB alone; omit it with --set augment.randaugment=")
        if self.rand_augment:
            try:
                _rand_augment(self.rand_augment, self.size, self.mean, self.interpolation)
            except (AssertionError, ValueError, KeyError, IndexError) as error:
                raise ValueError(
                    f"unknown policy {self.rand_augment!r}; write one such as rand-m9-mstd0.5-inc1"
                ) from error

    def __call__(self, image: Tensor) -> Tensor:
        """Augment (3, H, W) uint8 to (3, *size) uint8, or other channels (N, H, W) float32."""
        mode = INTERPOLATION_MODES[self.interpolation]
        crop = v2.RandomResizedCrop(self.size, self.scale, self.ratio, mode, antialias=True)
        steps = [
            crop,
            v2.RandomHorizontalFlip(self.hflip),
            *(self.color.transforms(self.channels) if self.color else []),
        ]
        image = v2.Compose(steps)(tv_tensors.Image(image)).as_subclass(Tensor)
        if self.rand_augment:
            policy = _rand_augment(self.rand_augment, self.size, self.mean, self.interpolation)
            pixels = policy(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
            image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        return self._erase(image.contiguous())

    def _erase(self, image: Tensor) -> Tensor:
        """Replace a random rectangle, drawn as by torchvision's `RandomErasing`, by noise."""
        erased = v2.RandomErasing(self.erase, value=0.0)(torch.ones(1, *image.shape[-2:]))[0] == 0
        if not erased.any():
            return image
        noise = torch.randn(len(self.mean), int(erased.sum()))
        mean, std = (torch.tensor(values)[:, None] for values in (self.mean, self.std))
        image = image.clone()  # it may be the caller's
        if self.channels:
            image[:, erased] = self.channels.scale * (mean + std * noise)
        else:
            image[:, erased] = (255 * (mean + std * noise)).round().clamp(0, 255).to(torch.uint8)
        return image


@lru_cache(8)
def _rand_augment(
    policy: str, size: tuple[int, int], mean: tuple[float, ...], interpolation: Interpolation
) -> Callable[[Image.Image], Image.Image]:
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(0.45 * min(size)),
        "img_mean": tuple(round(255 * value) for value in mean),
        "interpolation": _RESAMPLING[interpolation],
    }
    transform = rand_augment_transform(policy, settings)
    for change in transform.ops:
        if change.name.startswith("Posterize"):
            change.level_fn = partial(_posterize_bits, change.level_fn)
    augment: Callable[[Image.Image], Image.Image] = transform
    return augment


def _posterize_bits(level_to_bits: Callable[[float, Any], tuple[int]], level: float, settings: Any) -> tuple[int]:
    """Return the bits that timm's posterize keeps, at least one: Pillow raises for none, which the top level gives."""
    return (max(1, level_to_bits(level, settings)[0]),)


def random_integer(stop: int) -> int:
    """Draw a number from 0 to `stop` - 1 from torch's global generator."""
    return int(torch.randint(stop, ()))
