"""Features of boxes and points of an image, pooled from its feature map."""

import numpy as np

from gtsa_kit.feature_grid import boxes_to_grid, points_to_grid


def project_boxes(grid_to_pixel: np.ndarray, boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Map boxes (N, 4) on the image to boxes (N, 4) on its feature map, clipped to the map.

    Args:
        grid_to_pixel: Affine (2, 3) of the image, from `feature_grid.grid_to_pixel`.
        boxes: x1, y1, x2, y2 in pixels of the file.
        grid: (h, w) of the map.

    Raises:
        ValueError: A box lies outside the image.
    """
    limits = np.array([grid[1], grid[0], grid[1], grid[0]], np.float64)
    projected = np.asarray(np.clip(boxes_to_grid(grid_to_pixel, boxes), 0, limits))
    outside = np.flatnonzero((projected[:, 2] <= projected[:, 0]) | (projected[:, 3] <= projected[:, 1]))
    if outside.size:
        raise ValueError(f"box {outside[0]} lies outside the image")
    return projected


def project_points(grid_to_pixel: np.ndarray, points: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Map points (N, 2) on the image to positions (N, 2) on its feature map.

    Args:
        grid_to_pixel: Affine (2, 3) of the image, from `feature_grid.grid_to_pixel`.
        points: x, y in pixels of the file.
        grid: (h, w) of the map.

    Raises:
        ValueError: A point lies outside the image.
    """
    projected = points_to_grid(grid_to_pixel, points)
    limits = np.array([grid[1], grid[0]])
    tolerance = 1e-9
    outside = np.flatnonzero(((projected < -tolerance) | (projected > limits + tolerance)).any(-1))
    if outside.size:
        raise ValueError(f"point {outside[0]} lies outside the image")
    return np.asarray(np.clip(projected, 0, limits))


def roi_features(feature_map: np.ndarray, boxes: np.ndarray, roi_size: int) -> np.ndarray:
    """Pool boxes by RoIAlign (aligned, adaptive sampling), as `torchvision.ops.roi_align` does.

    Args:
        feature_map: (D, h, w) float32.
        boxes: (N, 4) on the map, x1, y1, x2, y2 in units of patches.
        roi_size: Height and width of the result.

    Returns:
        Features (N, D, roi_size, roi_size) float32.
    """
    height, width = feature_map.shape[1:]
    rows = _axis_weights(boxes[:, 1], boxes[:, 3], roi_size, height)  # (N, roi_size, h)
    columns = _axis_weights(boxes[:, 0], boxes[:, 2], roi_size, width)  # (N, roi_size, w)
    over_rows = np.tensordot(rows, feature_map, axes=([2], [1])).transpose(0, 2, 1, 3)  # (N, D, roi_size, w)
    return np.ascontiguousarray(over_rows @ columns.transpose(0, 2, 1)[:, None])


def _axis_weights(low: np.ndarray, high: np.ndarray, bins: int, length: int) -> np.ndarray:
    """Return the weights (N, bins, length) float32 of RoIAlign along one axis, which average the samples of each bin.

    It is `geometry.roi_weights` without torch, which the service need not have.

    Args:
        low: Start (N,) of the boxes along the axis, in units of patches.
        high: End (N,) of the boxes along the axis.
        bins: Number of bins of a box.
        length: Size of the map along the axis, in patches.
    """
    bin_size = ((high - low) / bins)[:, None, None]
    samples = np.maximum(np.ceil(bin_size), 1)  # (N, 1, 1) samples per bin
    sample = np.arange(-(-length // bins))  # enough for a box inside the map
    inside = (np.arange(bins)[:, None] + (sample + 0.5) / samples) * bin_size  # (N, bins, samples)
    # Patch i has its center at i + 0.5; beyond the outermost centers the value of the outermost patch continues.
    position = np.clip(low[:, None, None] + inside - 0.5, 0, length - 1)
    hats = np.maximum(1 - np.abs(position[..., None] - np.arange(length)), 0)  # (N, bins, samples, length)
    used = (sample < samples)[..., None]  # (N, 1, samples, 1)
    return np.asarray((hats * used).sum(2) / samples, np.float32)


def point_features(feature_map: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Interpolate a feature map (D, h, w) bilinearly at points (N, 2), in units of patches.

    The features of a patch hold at its center. Beyond the outermost centers the nearest values are repeated, as in
    RoIAlign.

    Returns:
        Features (N, D) float32.
    """
    height, width = feature_map.shape[1:]
    x = np.clip(points[:, 0] - 0.5, 0, width - 1)
    y = np.clip(points[:, 1] - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    dx, dy = (x - left).astype(np.float32), (y - top).astype(np.float32)
    above = feature_map[:, top, left] * (1 - dx) + feature_map[:, top, right] * dx
    below = feature_map[:, bottom, left] * (1 - dx) + feature_map[:, bottom, right] * dx
    return np.ascontiguousarray((above * (1 - dy) + below * dy).T)


def cosine_similarity_map(vector: np.ndarray, feature_map: np.ndarray) -> np.ndarray:
    """Return the cosine similarity (h, w) float32 of a vector (D,) with every patch of a map (D, h, w)."""
    norms = np.linalg.norm(feature_map, axis=0) * np.linalg.norm(vector)
    products = np.tensordot(vector, feature_map, axes=1)
    return np.asarray(np.clip(products / np.maximum(norms, 1e-12), -1, 1), np.float32)
