"""Augmentation of images with objects, with the transforms of torchvision, and batches of images of several sizes.

Random numbers come from the global generator of torch, which `samples.seeded` seeds for each sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from gtsa_kit.data.instances import Instances
from gtsa_kit.data.samples import Batch, collate_unreadable
from gtsa_kit.data.task_augment import (
    INTERPOLATION_MODES,
    Interpolation,
    random_integer,
)
from gtsa_kit.data.task_color import ChannelSamples, ColorJitter, fill_values, random_uniform

Target = dict[str, Tensor]
"""Objects to learn: `boxes` (N, 4) float32 x0, y0, x1, y1 in pixels of the input; `labels` (N,) int64, the class number
plus 1, since 0 is the background; and, with masks, `masks` (N, h, w) uint8 at the size of the image."""


class DetectBatch(NamedTuple):
    """B images, padded on the right and below to one size, with their objects, for training."""

    images: Tensor
    """Images (B, 3, H, W) uint8; of other channels (B, N, H, W) float32, in the units of the file."""
    sizes: Tensor
    """Height and width of each image without its padding, (B, 2) int64."""
    targets: list[Target]
    """Objects of each image."""

    def pin_memory(self) -> "DetectBatch":
        """Return the batch in page-locked memory (called by the data loader)."""
        targets = [{name: tensor.pin_memory() for name, tensor in target.items()} for target in self.targets]
        return DetectBatch(self.images.pin_memory(), self.sizes.pin_memory(), targets)


@dataclass(frozen=True)
class DetectAugment:
    """Augmentation of an image and its objects: random scale, optional crop, mirroring and color.

    Objects of which nothing, or less than `min_side` pixels, is left are dropped, and so are crowd regions. Padding on
    the right and below, to a multiple of the patch size, has the mean color.
    """

    patch: int
    """Patch size; the sides of the result are multiples of it."""
    short_sides: tuple[int, int]
    """Range of the random short side, in pixels."""
    long_side: int
    """Largest long side, in pixels."""
    crop: tuple[int, int] | None = None
    """Largest height and width of the part of the image that is used; None uses the whole image."""
    hflip: float = 0.5
    """Probability of mirroring."""
    color: ColorJitter | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Color of the padding, 0 to 1; of samples that are not 8-bit, in their own units."""
    interpolation: Interpolation = "bilinear"
    """Antialiased interpolation of the image."""
    min_side: float = 1.0
    """Shortest side of a box that is kept, in pixels of the result."""
    channels: ChannelSamples | None = None
    """Samples of other channels than 8-bit RGB."""

    def __call__(self, image: Tensor, objects: Instances) -> DetectBatch:
        """Augment an image (3, H, W) uint8 with its objects to a batch of one; other channels are float32."""
        single = torch.from_numpy(~objects.crowd)
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(objects.boxes)[single], format="XYXY", canvas_size=image.shape[-2:]
        )
        labels = torch.from_numpy(objects.classes)[single] + 1
        masks = None if objects.masks is None else torch.from_numpy(objects.masks).view(torch.uint8)[single]
        image, boxes, masks = self._resized(image, boxes, masks)
        sample = {"image": tv_tensors.Image(image), "boxes": boxes, "labels": labels}
        if masks is not None:
            sample["masks"] = tv_tensors.Mask(masks)
        steps = [v2.RandomHorizontalFlip(self.hflip), *(self.color.transforms(self.channels) if self.color else [])]
        sample = v2.Compose([*steps, v2.SanitizeBoundingBoxes(self.min_side)])(sample)
        image = sample.pop("image").as_subclass(Tensor)
        target = {name: value.as_subclass(Tensor).contiguous() for name, value in sample.items()}
        height, width = image.shape[-2:]
        padded = [-(-side // self.patch) * self.patch for side in (height, width)]
        return DetectBatch(self._pad(image, padded)[None], torch.tensor([[height, width]]), [target])

    def collate(self, samples: list[Batch[DetectBatch]]) -> Batch[DetectBatch]:
        """Pad training samples to the largest one and stack them; no content if one of the samples has none."""
        contents = [sample.content for sample in samples if sample.content is not None]
        unreadable = collate_unreadable(samples)
        if len(contents) < len(samples):
            return Batch(None, unreadable)
        common_size = [max(content.images.shape[axis] for content in contents) for axis in (2, 3)]
        images = torch.stack([self._pad(image, common_size) for content in contents for image in content.images])
        sizes = torch.cat([content.sizes for content in contents])
        return Batch(
            DetectBatch(images, sizes, [target for content in contents for target in content.targets]), unreadable
        )

    def _resized(self, image: Tensor, boxes: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return image, boxes and masks at the random scale, of the random crop; masks have at least a pixel each."""
        height, width = image.shape[-2:]
        scale = random_uniform(*self.short_sides) / min(height, width)
        scale = min(scale, self.long_side / max(height, width))
        crop = self.crop or (math.inf, math.inf)
        cut = [
            min(side, math.ceil(to / scale)) if self.crop else side
            for side, to in zip((height, width), crop, strict=True)
        ]
        size = [int(min(to, max(1, round(side * scale)))) for side, to in zip(cut, crop, strict=True)]
        top, left = (random_integer(whole - part + 1) for whole, part in zip((height, width), cut, strict=True))
        image = image[:, top : top + cut[0], left : left + cut[1]]
        image = v2.functional.resize(image, size, INTERPOLATION_MODES[self.interpolation], antialias=True)
        boxes = v2.functional.resize(v2.functional.crop(boxes, top, left, *cut), size)
        if masks is None:
            return image, boxes, None
        masks = masks[:, top : top + cut[0], left : left + cut[1]]
        masks = F.interpolate(masks[None], size, mode="nearest-exact")[0] if len(masks) else masks.new_zeros(0, *size)
        return image, self._tightened(boxes, masks, cut != [height, width]), masks

    def _tightened(self, boxes: Tensor, masks: Tensor, cropped: bool) -> Tensor:
        """Return boxes that enclose no more than what a crop left of their masks; of no area where that is nothing."""
        visible = masks.flatten(1).any(1)
        result = boxes * visible[:, None]
        if cropped and visible.any():
            enclosing = masks_to_boxes(masks[visible].bool())
            enclosing[:, 2:] += 1
            low, high = torch.maximum(boxes[visible], enclosing)[:, :2], torch.minimum(boxes[visible], enclosing)[:, 2:]
            result[visible] = torch.cat([low, high], 1)
        tightened: Tensor = tv_tensors.wrap(result, like=boxes)
        return tightened

    def _pad(self, image: Tensor, size: Sequence[int]) -> Tensor:
        missing = size[0] - image.shape[-2], size[1] - image.shape[-1]
        fill = fill_values(self.mean, self.channels)
        padded: Tensor = v2.functional.pad(image, [0, 0, missing[1], missing[0]], fill=fill)
        return padded
