"""Multi-crop augmentation of a batch of images on the device of the model.

Data-loading workers then only decode and shrink images and sample the parameters. The parameters equal those of
`augment`; pixels differ from it by at most one level (of 255), after hue and blur by at most three. Shapes: B images,
V = G + L views of each, and N = B * G or N = B * L views at a time.
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
from gtsa_kit.data.augmentation_params import JITTER_STEPS, AugmentationParams, ColorParams, sample_augmentation
from gtsa_kit.geometry import cubic, triangle

_JITTER = (
    batched_color.adjust_brightness,
    batched_color.adjust_contrast,
    batched_color.adjust_saturation,
    batched_color.adjust_hue,
)

Kernel = Callable[[Tensor], Tensor]
"""Function from distances, in pixels of the smaller image, to interpolation weights."""


class DecodedBatch(NamedTuple):
    """B decoded images and the parameters of their views."""

    pixels: Tensor
    """Images (B, 3, H, W) uint8, each in the upper left corner and padded with zeros."""
    scale: Tensor
    """Scale (B, 2) float64 of height and width by which images were shrunk; boxes are in pixels before that."""
    params: AugmentationParams
    """Parameters with B in front of every shape, on the host, because they decide which kernels are launched."""

    def pin_memory(self) -> "DecodedBatch":
        """Return the batch with images in page-locked memory (called by the data loader)."""
        return self._replace(pixels=self.pixels.pin_memory())


def prepare_for_device(image: Tensor, config: ViewsConfig, generator: Generator) -> DecodedBatch:
    """Return a (3, H, W) uint8 image as a batch of one, shrunk to what its views need, with sampled parameters."""
    height, width = image.shape[-2:]
    params = sample_augmentation(height, width, config, generator)
    pixels = shrink(image, max_side(config))
    scale = torch.tensor([[pixels.shape[1] / height, pixels.shape[2] / width]], dtype=torch.float64)
    return DecodedBatch(pixels[None], scale, _map(lambda tensor: tensor[None], params))


def max_side(config: ViewsConfig) -> int:
    """Return the side of the square image whose smallest crops have as many rows and columns as their views."""
    min_aspect = min(config.aspect[0], 1 / config.aspect[1])
    kinds = [(config.global_size, config.global_area), (config.local_size, config.local_area)]
    return max(math.ceil(size / math.sqrt(area[0] * min_aspect)) for size, area in kinds)


def shrink(image: Tensor, side: int) -> Tensor:
    """Shrink a (3, H, W) uint8 image to at most side * side pixels and at most 2 * side in height and width."""
    height, width = image.shape[-2:]
    scale = min(1.0, side / math.sqrt(height * width), 2 * side / max(height, width))
    if scale == 1.0:
        return image
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]


def collate_decoded(parts: list[DecodedBatch]) -> DecodedBatch:
    """Concatenate batches, padding the images to one size."""
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
    """Make the views on the device, without synchronizing with it."""
    pixels = decoded.pixels.to(device, non_blocking=True)
    params, n_global, batch = decoded.params, config.global_crops, len(pixels)
    images = []
    for kind, size in ((slice(None, n_global), config.global_size), (slice(n_global, None), config.local_size)):
        boxes, rotations, flips = (tensor[:, kind].flatten(0, 1) for tensor in params[:3])
        count = len(boxes) // batch
        if not count:
            images.append(pixels.new_zeros((batch, 0, 3, size, size)))
            continue
        image_indices = torch.arange(batch).repeat_interleave(count)
        boxes = boxes * decoded.scale[image_indices].flip(-1).repeat(1, 2)
        kernel = cubic if config.interpolation == "bicubic" else triangle
        views = crop_and_rotate_batched(pixels, image_indices, boxes, rotations, size, kernel)
        views = augment_color_batched(
            views, ColorParams(*(tensor[:, kind].flatten(0, 1) for tensor in params.colors)), config
        )
        views = torch.where(_to_device(flips, device)[:, None, None, None], views.flip(-1), views)
        images.append(views.to(torch.uint8).reshape(batch, count, *views.shape[1:]))
    return Views(images[0], images[1], _to_device(params.boxes.float(), device), _to_device(params.rotations, device))


def crop_and_rotate_batched(
    pixels: Tensor, image_indices: Tensor, boxes: Tensor, rotations: Tensor, size: int, kernel: Kernel = cubic
) -> Tensor:
    """Crop boxes, resize them by antialiased interpolation, and rotate them.

    Args:
        pixels: Images (B, 3, H, W) uint8, on the device.
        image_indices: Index (N,) of each view's image, on the host.
        boxes: Crops (N, 4) in pixels, on the host.
        rotations: Rotations k (N,), by k * 90 degrees counter-clockwise, on the host.
        size: Side of the views in pixels.
        kernel: Interpolation kernel.

    Returns:
        (N, 3, size, size) float32 whole numbers, 0 to 255.
    """
    views = torch.empty((len(boxes), 3, size, size), device=pixels.device)
    extents = boxes[:, 2:] - boxes[:, :2]
    by_columns = torch.tensor([columns_first(h, w, size) for w, h in extents.tolist()])
    for first in (False, True):
        selected = torch.nonzero(by_columns == first).squeeze(1)
        if not len(selected):
            continue
        part = _resample(pixels, image_indices[selected], boxes[selected], rotations[selected], size, first, kernel)
        views.index_copy_(0, _to_device(selected, pixels.device), part)
    return views


def _resample(
    pixels: Tensor,
    image_indices: Tensor,
    boxes: Tensor,
    rotations: Tensor,
    size: int,
    by_columns: bool,
    kernel: Kernel,
) -> Tensor:
    """Make views with one order of the two resize passes; values are rounded and clipped after each pass."""
    device = pixels.device
    # A rotation mirrors the weights and, by 90 or 270 degrees, transposes the view.
    rows, from_rows = _resize_weights(
        boxes[:, 1], boxes[:, 3], (rotations == 2) | (rotations == 3), size, kernel, device
    )
    columns, from_columns = _resize_weights(
        boxes[:, 0], boxes[:, 2], (rotations == 1) | (rotations == 2), size, kernel, device
    )
    from_rows.clamp_(max=pixels.shape[2] - 1)
    from_columns.clamp_(max=pixels.shape[3] - 1)
    index = _to_device(image_indices, device)[:, None, None]
    crops = pixels[index, :, from_rows[:, :, None], from_columns[:, None]].float()  # (N, h, w, 3)
    if by_columns:
        views = _to_levels(torch.einsum("nih,nhwc->niwc", rows, crops))
        views = _to_levels(torch.einsum("njw,niwc->ncij", columns, views))
    else:
        views = _to_levels(torch.einsum("njw,nhwc->nhjc", columns, crops))
        views = _to_levels(torch.einsum("nih,nhjc->ncij", rows, views))
    return torch.where(_to_device(rotations % 2 == 1, device)[:, None, None, None], views.mT, views)


def _resize_weights(
    low: Tensor, high: Tensor, mirrored: Tensor, size: int, kernel: Kernel, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return antialiased interpolation weights along one axis, and the indices of the pixels they apply to.

    Args:
        low: Start (N,) of the boxes in pixels, on the host.
        high: End (N,) of the boxes in pixels, on the host.
        mirrored: Views (N,) bool to mirror along the axis, on the host.
        size: Side of the views in pixels.
        kernel: Interpolation kernel.
        device: Device of the results.

    Returns:
        Weights (N, size, n) and indices (N, n); n is the largest number of pixels that a box touches.
    """
    first, last = low.floor(), high.ceil()
    count = int((last - first).max())
    ends = low, first, last, (high - low) / size
    low, first, last, step = (_to_device(values.float(), device)[:, None, None] for values in ends)
    output = torch.arange(size, device=device, dtype=torch.float32)[:, None]
    output = torch.where(_to_device(mirrored, device)[:, None, None], size - 1 - output, output)
    inputs = torch.arange(count, device=device, dtype=torch.float32)
    distance = ((inputs + 0.5 - (low - first) - (output + 0.5) * step) / step.clamp(min=1)).abs()
    weights = kernel(distance) * (inputs < last - first)
    return weights / weights.sum(-1, keepdim=True), (first[:, 0] + inputs).long()


def _to_levels(values: Tensor) -> Tensor:
    """Round to whole numbers, 0 to 255, in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def augment_color_batched(views: Tensor, colors: ColorParams, config: ViewsConfig) -> Tensor:
    """Apply color jitter, grayscale, blur and noise to views (N, 3, S, S) float32, each with its own parameters."""
    factors, sigmas = _to_device(colors.factors, views.device), _to_device(colors.sigmas, views.device)
    for position in range(len(JITTER_STEPS)):
        steps = colors.orders[:, position].where(colors.jittered, torch.tensor(len(JITTER_STEPS)))
        for step, adjust in enumerate(_JITTER):
            views = _apply_to_selected(views, steps == step, adjust, factors[:, step])
    views = _apply_to_selected(views, colors.gray, lambda selected, _: batched_color.to_grayscale(selected), sigmas)
    views = _apply_to_selected(views, colors.sigmas > 0, batched_color.gaussian_blur, sigmas)
    return _add_noise(views, colors.noise_seeds, config.noise_std) if config.noise_std > 0 else views


def _apply_to_selected(
    views: Tensor, selected: Tensor, operation: Callable[[Tensor, Tensor], Tensor], strengths: Tensor
) -> Tensor:
    """Apply an operation, with a strength (N,) per view, to the views that are selected, (N,) bool on the host."""
    index = torch.nonzero(selected).squeeze(1)
    if not len(index):
        return views
    index = _to_device(index, views.device)
    return views.index_copy_(0, index, operation(views[index], strengths[index]))


def _add_noise(views: Tensor, seeds: Tensor, std: float) -> Tensor:
    for view, seed in zip(views, seeds.tolist(), strict=True):
        generator = Generator(views.device).manual_seed(seed)
        noise = torch.randn(view.shape, generator=generator, device=views.device)
        view.add_(noise * (255 * std)).round_().clamp_(0, 255)
    return views


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _map(function: Callable[..., Tensor], *params: AugmentationParams) -> AugmentationParams:
    """Apply a function to every tensor of the parameters, or to the corresponding tensors of several."""
    boxes, rotations, flips, colors = zip(*params, strict=True)
    return AugmentationParams(
        function(*boxes), function(*rotations), function(*flips), ColorParams(*map(function, *colors))
    )
