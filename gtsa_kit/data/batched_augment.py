"""Views of a batch of images at once on the device of the model: `augment.apply_augmentations` for many images.

Data-loading processes then only decode, shrink and sample. Parameters are those of `augment`, and what is made of
them is the same within a level, hue and blur within three. B images, V = G + L views of each; N = B * G or B * L.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import batched_color
from gtsa_kit.data.augment import Views, columns_first
from gtsa_kit.data.augmentation_params import STEPS, AugmentationParams, ColorParams, sample_augmentation
from gtsa_kit.geometry import cubic

_STEPS = (
    batched_color.adjust_brightness,
    batched_color.adjust_contrast,
    batched_color.adjust_saturation,
    batched_color.adjust_hue,
)


class DecodedBatch(NamedTuple):
    """B images, decoded, and what is to be made of them."""

    pixels: Tensor
    """(B, 3, H, W) uint8: each fills the upper left corner, the rest is nothing."""
    scale: Tensor
    """(B, 2) float64: by how much, down and across; boxes are in pixels of the image before that."""
    params: AugmentationParams
    """With B in front of every shape; stays in the host's memory, where it is decided what is to be launched."""

    def pin_memory(self) -> "DecodedBatch":
        """The same images in page-locked memory (called by the data loader)."""
        return self._replace(pixels=self.pixels.pin_memory())


def prepare_for_device(image: Tensor, config: ViewsConfig, generator: Generator) -> DecodedBatch:
    """A (3, H, W) uint8 image, no larger than its views need, with its draws; as a batch of one."""
    height, width = image.shape[-2:]
    drawn = sample_augmentation(height, width, config, generator)
    pixels = shrink(image, largest_side(config))
    scale = torch.tensor([[pixels.shape[1] / height, pixels.shape[2] / width]], dtype=torch.float64)
    return DecodedBatch(pixels[None], scale, _map(lambda tensor: tensor[None], drawn))


def largest_side(config: ViewsConfig) -> int:
    """Side of the square image whose smallest crops have as many pixels as their views, down and across."""
    thinnest = min(config.aspect[0], 1 / config.aspect[1])
    kinds = [(config.global_size, config.global_area), (config.local_size, config.local_area)]
    return max(math.ceil(size / math.sqrt(area[0] * thinnest)) for size, area in kinds)


def shrink(image: Tensor, side: int) -> Tensor:
    """(3, H, W) uint8 to at most side * side pixels, and twice the side either way; a smaller one as it is."""
    height, width = image.shape[-2:]
    scale = min(1.0, side / math.sqrt(height * width), 2 * side / max(height, width))
    if scale == 1.0:
        return image
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]


def collate_decoded(parts: list[DecodedBatch]) -> DecodedBatch:
    """One batch of several."""
    height, width = (max(part.pixels.shape[axis] for part in parts) for axis in (2, 3))
    pixels = torch.zeros((sum(len(part.pixels) for part in parts), 3, height, width), dtype=torch.uint8)
    first = 0
    for part in parts:
        b, _, h, w = part.pixels.shape
        pixels[first : first + b, :, :h, :w] = part.pixels
        first += b
    params = _map(lambda *tensors: torch.cat(tensors), *(part.params for part in parts))
    return DecodedBatch(pixels, torch.cat([part.scale for part in parts]), params)


@torch.no_grad()
def apply_augmentations_batched(decoded: DecodedBatch, config: ViewsConfig, device: torch.device) -> Views:
    """The views that were drawn, made on the device; nothing there is waited for."""
    pixels = decoded.pixels.to(device, non_blocking=True)
    params, n_global, batch = decoded.params, config.global_crops, len(pixels)
    images = []
    for kind, size in ((slice(None, n_global), config.global_size), (slice(n_global, None), config.local_size)):
        boxes, rotations, flips = (tensor[:, kind].flatten(0, 1) for tensor in params[:3])
        count = len(boxes) // batch
        if not count:
            images.append(pixels.new_zeros((batch, 0, 3, size, size)))
            continue
        owners = torch.arange(batch).repeat_interleave(count)
        boxes = boxes * decoded.scale[owners].flip(-1).repeat(1, 2)
        views = crop_and_rotate_batched(pixels, owners, boxes, rotations, size)
        views = augment_color_batched(
            views, ColorParams(*(tensor[:, kind].flatten(0, 1) for tensor in params.colors)), config
        )
        views = torch.where(_there(flips, device)[:, None, None, None], views.flip(-1), views)
        images.append(views.to(torch.uint8).reshape(batch, count, *views.shape[1:]))
    return Views(images[0], images[1], _there(params.boxes.float(), device), _there(params.rotations, device))


def crop_and_rotate_batched(pixels: Tensor, owners: Tensor, boxes: Tensor, rotations: Tensor, size: int) -> Tensor:
    """(N, 3, size, size) float32 whole numbers: antialiased bicubic views of boxes, turned.

    Args:
        pixels: (B, 3, H, W) uint8, on the device.
        owners, boxes, turns: (N,) which image, (N, 4) where in it, (N,) quarter turns; on the host.
        size: Side of the views.
    """
    views = torch.empty((len(boxes), 3, size, size), device=pixels.device)
    extents = boxes[:, 2:] - boxes[:, :2]
    by_columns = torch.tensor([columns_first(h, w, size) for w, h in extents.tolist()])
    for first in (False, True):
        chosen = torch.nonzero(by_columns == first).squeeze(1)
        if not len(chosen):
            continue
        made = _resample(pixels, owners[chosen], boxes[chosen], rotations[chosen], size, first)
        views.index_copy_(0, _there(chosen, pixels.device), made)
    return views


def _resample(pixels: Tensor, owners: Tensor, boxes: Tensor, rotations: Tensor, size: int, by_columns: bool) -> Tensor:
    """As `crop_and_rotate_batched`, with one order of the two passes, between which values are rounded and cut."""
    device = pixels.device
    # A quarter turn is a mirror of the weights and, if odd, a transposition.
    rows, from_rows = _weights(boxes[:, 1], boxes[:, 3], (rotations == 2) | (rotations == 3), size, device)
    columns, from_columns = _weights(boxes[:, 0], boxes[:, 2], (rotations == 1) | (rotations == 2), size, device)
    from_rows.clamp_(max=pixels.shape[2] - 1)
    from_columns.clamp_(max=pixels.shape[3] - 1)
    of = _there(owners, device)[:, None, None]
    crops = pixels[of, :, from_rows[:, :, None], from_columns[:, None]].float()  # (N, h, w, 3)
    if by_columns:
        views = _to_levels(torch.einsum("nih,nhwc->niwc", rows, crops))
        views = _to_levels(torch.einsum("njw,niwc->ncij", columns, views))
    else:
        views = _to_levels(torch.einsum("njw,nhwc->nhjc", columns, crops))
        views = _to_levels(torch.einsum("nih,nhjc->ncij", rows, views))
    return torch.where(_there(rotations % 2 == 1, device)[:, None, None, None], views.mT, views)


def _weights(low: Tensor, high: Tensor, mirrored: Tensor, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of antialiased bicubic weights (a = -0.5) along one axis, and the pixels that they act on.

    Args:
        low, high: (N,) ends of the boxes, in pixels, on the host.
        mirrored: (N,) bool.
        size: Pixels of a view.

    Returns:
        (N, size, n) and (N, n), on the device; n is the most pixels that one of the boxes touches.
    """
    first, last = low.floor(), high.ceil()
    most = int((last - first).max())
    low, first, last, step = (_there(t.float(), device)[:, None, None] for t in (low, first, last, (high - low) / size))
    place = torch.arange(size, device=device, dtype=torch.float32)[:, None]
    place = torch.where(_there(mirrored, device)[:, None, None], size - 1 - place, place)
    cells = torch.arange(most, device=device, dtype=torch.float32)
    distance = ((cells + 0.5 - (low - first) - (place + 0.5) * step) / step.clamp(min=1)).abs()
    weights = cubic(distance) * (cells < last - first)
    return weights / weights.sum(-1, keepdim=True), (first[:, 0] + cells).long()


def _to_levels(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def augment_color_batched(views: Tensor, colors: ColorParams, config: ViewsConfig) -> Tensor:
    """Color jitter, gray, blur and noise of (N, 3, S, S) float32 whole numbers, each view its own."""
    factors, sigmas = _there(colors.factors, views.device), _there(colors.sigmas, views.device)
    for place in range(len(STEPS)):
        step_of = colors.orders[:, place].where(colors.jittered, torch.tensor(len(STEPS)))
        for step, work in enumerate(_STEPS):
            views = _some(views, step_of == step, work, factors[:, step])
    views = _some(views, colors.gray, lambda some, _: batched_color.to_grayscale(some), sigmas)
    views = _some(views, colors.sigmas > 0, batched_color.gaussian_blur, sigmas)
    return _with_noise(views, colors.noise_seeds, config.noise_std) if config.noise_std > 0 else views


def _some(views: Tensor, chosen: Tensor, work: Callable[[Tensor, Tensor], Tensor], strengths: Tensor) -> Tensor:
    """Do something, each at its own strength, to the views that are chosen, (N,) bool on the host."""
    index = torch.nonzero(chosen).squeeze(1)
    if not len(index):
        return views
    index = _there(index, views.device)
    return views.index_copy_(0, index, work(views[index], strengths[index]))


def _with_noise(views: Tensor, seeds: Tensor, std: float) -> Tensor:
    for view, seed in zip(views, seeds.tolist(), strict=True):
        generator = Generator(views.device).manual_seed(seed)
        noise = torch.randn(view.shape, generator=generator, device=views.device)
        view.add_(noise * (255 * std)).round_().clamp_(0, 255)
    return views


def _there(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _map(work: Callable[..., Tensor], *params: AugmentationParams) -> AugmentationParams:
    """Draws of which each tensor is made of the same tensors of others."""
    boxes, rotations, flips, colors = zip(*params, strict=True)
    return AugmentationParams(work(*boxes), work(*rotations), work(*flips), ColorParams(*map(work, *colors)))
