"""Boxes, overlaps, quarter turns of boxes and maps, RoIAlign: pure tensors.

A box is (x0, y0, x1, y1), the last dimension of a tensor. A turn is a number of counter-clockwise quarter turns, as
`torch.rot90` counts them over (height, width). The unit square of a view has (0, 0) at its upper left corner.
"""

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas of (..., 4) boxes, (...,); an empty box has 0."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def intersect(a: Tensor, b: Tensor) -> Tensor:
    """Overlaps of (..., 4) boxes, broadcast; where there is none the result's area is 0."""
    return torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)


def to_crop_coordinates(boxes: Tensor, crops: Tensor) -> Tensor:
    """Where (..., 4) boxes of the image lie in the unit squares of (..., 4) crops that have not been turned."""
    origin, size = crops[..., :2], crops[..., 2:] - crops[..., :2]
    return (boxes - torch.cat([origin, origin], -1)) / torch.cat([size, size], -1)


def rotate_boxes(boxes: Tensor, rotations: Tensor) -> Tensor:
    """Turn (..., 4) boxes with the unit square that they lie in, each by its own number in `rotations` (...,).

    One turn counter-clockwise takes the point (x, y) to (y, 1 - x).
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    four = torch.stack(
        [
            torch.stack([x0, y0, x1, y1], -1),
            torch.stack([y0, 1 - x1, y1, 1 - x0], -1),
            torch.stack([1 - x1, 1 - y1, 1 - x0, 1 - y0], -1),
            torch.stack([1 - y1, x0, 1 - y0, x1], -1),
        ],
        dim=-2,
    )  # (..., 4 turns, 4)
    index = (rotations % 4)[..., None, None].expand(*rotations.shape, 1, 4)
    return four.gather(-2, index).squeeze(-2)


def map_points_between_views(points: Tensor, crop: Tensor, rotation: int, crop_to: Tensor, rotation_to: int) -> Tensor:
    """Where points of one view of an image lie in another view of it.

    Args:
        points: (..., 2) x and y in the unit square of the view.
        crop, turn: (4,) box in pixels of the image, and quarter turns, of that view.
        crop_to, rotation_to: Of the other.

    Returns:
        (..., 2) in the other's unit square, and outside of it where it does not show them.
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
        raise ValueError(f"only square maps can be turned in a batch, got {tuple(maps.shape[-2:])}")
    cells = torch.arange(side * side, device=maps.device).reshape(side, side)
    order = torch.stack([torch.rot90(cells, k).flatten() for k in range(4)])  # (4, S*S)
    index = order[rotations % 4].unsqueeze(-2).expand(*maps.shape[:-2], side * side)
    return maps.flatten(-2).gather(-1, index).reshape(maps.shape)


def cubic(distance: Tensor) -> Tensor:
    """The bicubic kernel (a = -0.5) at distances of 0 and more, of any shape: 0 from 2 on."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


def roi_weights(low: Tensor, high: Tensor, cells: int, length: int) -> Tensor:
    """Rows of RoIAlign along one axis: (..., cells, length) weights that average the samples of each bin.

    RoIAlign (aligned, with the adaptive number of samples, ceil(extent / cells) a bin) is separable: these weights for
    y and x, as two matrix products, give what `torchvision.ops.roi_align` gives, without its per-image lists.

    Args:
        low, high: (...,) ends of the region along the axis, in the unit square, inside [0, 1].
        cells: Bins that the region is cut into.
        length: Cells of the map along the axis.
    """
    start, bin_size = low * length, (high - low) * length / cells
    samples = bin_size.detach().ceil().clamp(min=1)  # (...,) per bin
    most = -(-length // cells)  # a region inside the map needs no more
    bins = torch.arange(cells, device=low.device, dtype=low.dtype)[:, None]
    sample = torch.arange(most, device=low.device, dtype=low.dtype)
    inside = (bins + (sample + 0.5) / samples[..., None, None]) * bin_size[..., None, None]  # (..., cells, most)
    # Cell i has its center at i + 0.5; beyond the outer centers the outer cells' values continue.
    position = (start[..., None, None] + inside - 0.5).clamp(0, length - 1)
    centers = torch.arange(length, device=low.device, dtype=low.dtype)
    hats = (1 - (position[..., None] - centers).abs()).clamp(min=0)  # (..., cells, most, length)
    used = (sample < samples[..., None]).to(low.dtype)[..., None, :, None]  # (..., 1, most, 1)
    return (hats * used).sum(-2) / samples[..., None, None]
