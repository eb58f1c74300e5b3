"""Boxes, overlaps, rotations of boxes and maps by multiples of 90 degrees, and RoIAlign weights, as tensors.

The last dimension of a tensor of boxes is (x0, y0, x1, y1). A rotation k is by k * 90 degrees counter-clockwise, as in
`torch.rot90` over (height, width). The unit square of a view has (0, 0) at its upper left corner.
"""

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas (...,) of boxes (..., 4); an empty box has 0."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def intersect(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersections of boxes (..., 4), broadcast; boxes that don't overlap give a box of area 0."""
    return torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)


def to_crop_coordinates(boxes: Tensor, crops: Tensor) -> Tensor:
    """Convert boxes (..., 4) in pixels of the image to coordinates in the unit squares of unrotated crops (..., 4)."""
    origin, size = crops[..., :2], crops[..., 2:] - crops[..., :2]
    return (boxes - torch.cat([origin, origin], -1)) / torch.cat([size, size], -1)


def rotate_boxes(boxes: Tensor, rotations: Tensor) -> Tensor:
    """Rotate boxes (..., 4) with the unit square that they lie in, each by its own `rotations` (...,).

    A rotation by 90 degrees counter-clockwise maps the point (x, y) to (y, 1 - x).
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    rotated = torch.stack(
        [
            torch.stack([x0, y0, x1, y1], -1),
            torch.stack([y0, 1 - x1, y1, 1 - x0], -1),
            torch.stack([1 - x1, 1 - y1, 1 - x0, 1 - y0], -1),
            torch.stack([1 - y1, x0, 1 - y0, x1], -1),
        ],
        dim=-2,
    )  # (..., 4 rotations, 4)
    index = (rotations % 4)[..., None, None].expand(*rotations.shape, 1, 4)
    return rotated.gather(-2, index).squeeze(-2)


def map_points_between_views(points: Tensor, crop: Tensor, rotation: int, crop_to: Tensor, rotation_to: int) -> Tensor:
    """Map points of one view of an image to another view of the same image.

    Args:
        points: (..., 2) x and y in the unit square of the first view.
        crop: (4,) box of the first view in pixels of the image.
        rotation: Rotation of the first view.
        crop_to: (4,) box of the second view in pixels of the image.
        rotation_to: Rotation of the second view.

    Returns:
        (..., 2) x and y in the unit square of the second view; points outside the second view lie outside the square.
    """
    upright = _rotate_points(points, -rotation)
    pixels = crop[:2] + upright * (crop[2:] - crop[:2])
    return _rotate_points(to_crop_coordinates(torch.cat([pixels, pixels], -1), crop_to)[..., :2], rotation_to)


def _rotate_points(points: Tensor, rotation: int) -> Tensor:
    rotations = torch.full(points.shape[:-1], rotation % 4, device=points.device)
    return rotate_boxes(torch.cat([points, points], -1), rotations)[..., :2]


def rotate_maps(maps: Tensor, rotations: Tensor) -> Tensor:
    """Rotate square maps (..., C, S, S), each by its own `rotations` (...,): an exact permutation of grid positions.

    Raises:
        ValueError: The maps are not square.
    """
    side = maps.shape[-1]
    if maps.shape[-2] != side:
        raise ValueError(f"only square maps can be rotated in a batch, got {tuple(maps.shape[-2:])}")
    positions = torch.arange(side * side, device=maps.device).reshape(side, side)
    order = torch.stack([torch.rot90(positions, k).flatten() for k in range(4)])  # (4, S*S)
    index = order[rotations % 4].unsqueeze(-2).expand(*maps.shape[:-2], side * side)
    return maps.flatten(-2).gather(-1, index).reshape(maps.shape)


def cubic(distance: Tensor, a: float = -0.5) -> Tensor:
    """Return the bicubic kernel at nonnegative distances of any shape; it is 0 from distance 2 on."""
    inner = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    outer = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance < 1, inner, torch.where(distance < 2, outer, torch.zeros_like(distance)))


def triangle(distance: Tensor) -> Tensor:
    """Return the bilinear kernel at nonnegative distances of any shape; it is 0 from distance 1 on."""
    return (1 - distance).clamp(min=0)


def roi_weights(low: Tensor, high: Tensor, bins: int, length: int) -> Tensor:
    """Return the weights (..., bins, length) of RoIAlign along one axis, which average the samples of each bin.

    RoIAlign (aligned, with the adaptive number of samples, ceil(extent / bins) per bin) is separable: two matrix
    products with the weights for y and x give the values of `torchvision.ops.roi_align`, without lists of boxes.

    Args:
        low: Start (...,) of the regions along the axis, in [0, 1].
        high: End (...,) of the regions along the axis, in [0, 1].
        bins: Number of bins of a region.
        length: Size of the map along the axis, in patches.
    """
    start, bin_size = low * length, (high - low) * length / bins
    samples = bin_size.detach().ceil().clamp(min=1)  # (...,) samples per bin
    max_samples = -(-length // bins)  # enough for a region inside the map
    bin_index = torch.arange(bins, device=low.device, dtype=low.dtype)[:, None]
    sample = torch.arange(max_samples, device=low.device, dtype=low.dtype)
    inside = (bin_index + (sample + 0.5) / samples[..., None, None]) * bin_size[..., None, None]  # (..., bins, samples)
    # Patch i has its center at i + 0.5; beyond the outermost centers the value of the outermost patch continues.
    position = (start[..., None, None] + inside - 0.5).clamp(0, length - 1)
    centers = torch.arange(length, device=low.device, dtype=low.dtype)
    hats = (1 - (position[..., None] - centers).abs()).clamp(min=0)  # (..., bins, samples, length)
    used = (sample < samples[..., None]).to(low.dtype)[..., None, :, None]  # (..., 1, samples, 1)
    return (hats * used).sum(-2) / samples[..., None, None]
