"""Features of boxes and points of an image, out of a map that covers it."""

import numpy as np
import torch

from gtsa_kit.feature_grid import boxes_to_grid, points_to_grid
from gtsa_kit.geometry import roi_weights


def boxes_in_cells(matrix: np.ndarray, boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(N, 4) boxes on the image to boxes on its map, cut to it.

    Args:
        matrix: `grid_to_pixel` of the image.
        boxes: x1, y1, x2, y2 in pixels of the file.
        grid: (h, w) of the map.

    Raises:
        ValueError: A box that lies outside the image.
    """
    most = np.array([grid[1], grid[0], grid[1], grid[0]], np.float64)
    cells = np.asarray(np.clip(boxes_to_grid(matrix, boxes), 0, most))
    outside = np.flatnonzero((cells[:, 2] <= cells[:, 0]) | (cells[:, 3] <= cells[:, 1]))
    if outside.size:
        raise ValueError(f"box {outside[0]} lies outside the image")
    return cells


def points_in_cells(matrix: np.ndarray, points: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(N, 2) points on the image to positions on its map.

    Raises:
        ValueError: A point that lies outside the image.
    """
    cells = points_to_grid(matrix, points)
    slack = 1e-9
    outside = np.flatnonzero(((cells < -slack) | (cells > np.array([grid[1], grid[0]]) + slack)).any(-1))
    if outside.size:
        raise ValueError(f"point {outside[0]} lies outside the image")
    return np.asarray(np.clip(cells, 0, [grid[1], grid[0]]))


def roi_features(feature_map: np.ndarray, cells: np.ndarray, side: int) -> np.ndarray:
    """RoIAlign (aligned, adaptive sampling): (D, h, w) and (N, 4) boxes in cells to (N, D, side, side) float32."""
    height, width = feature_map.shape[1:]
    boxes = torch.from_numpy(cells)
    rows = roi_weights(boxes[:, 1] / height, boxes[:, 3] / height, side, height)  # (N, side, h)
    columns = roi_weights(boxes[:, 0] / width, boxes[:, 2] / width, side, width)  # (N, side, w)
    values = torch.from_numpy(np.ascontiguousarray(feature_map))
    pooled = torch.einsum("nrh,dhw,ncw->ndrc", rows.float(), values, columns.float())
    return np.asarray(pooled.numpy())


def point_features(feature_map: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Bilinear between the centers of cells: (D, h, w) and (N, 2) positions in cells to (N, D) float32.

    Beyond the outer centers the outer cells' values continue, as in RoIAlign.
    """
    height, width = feature_map.shape[1:]
    x = np.clip(cells[:, 0] - 0.5, 0, width - 1)
    y = np.clip(cells[:, 1] - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    dx, dy = (x - left).astype(np.float32), (y - top).astype(np.float32)
    above = feature_map[:, top, left] * (1 - dx) + feature_map[:, top, right] * dx
    below = feature_map[:, bottom, left] * (1 - dx) + feature_map[:, bottom, right] * dx
    return np.ascontiguousarray((above * (1 - dy) + below * dy).T)


def cosine_map(vector: np.ndarray, feature_map: np.ndarray) -> np.ndarray:
    """Cosines (h, w) float32 of a vector (D,) with every cell of (D, h, w)."""
    norms = np.linalg.norm(feature_map, axis=0) * np.linalg.norm(vector)
    products = np.tensordot(vector, feature_map, axes=1)
    return np.asarray(np.clip(products / np.maximum(norms, 1e-12), -1, 1), np.float32)
