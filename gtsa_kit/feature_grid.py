"""Mapping of points, boxes and masks between a feature map and the image as its file stores it.

Grid coordinates (u, v) count patches along the width and height of the feature map: patch (row, column) is the square
[column, column + 1] x [row, row + 1]. Pixel coordinates (x, y) count pixels to the right and down. The affine matrix A
(2, 3) that `grid_to_pixel` returns relates them: (x, y) = A @ (u, v, 1). It combines the resize of the upright image to
the model's input with the inverse of the EXIF orientation, because annotation tools count pixels as stored, while
viewers and the encoder see the upright image.
"""

import numpy as np

# EXIF orientation -> matrix (2, 4) that maps (X, Y, W, H), a point of the upright image and its size, to (x, y) in the
# stored image.
_UPRIGHT_TO_STORED = {
    1: ((1, 0, 0, 0), (0, 1, 0, 0)),
    2: ((-1, 0, 1, 0), (0, 1, 0, 0)),
    3: ((-1, 0, 1, 0), (0, -1, 0, 1)),
    4: ((1, 0, 0, 0), (0, -1, 0, 1)),
    5: ((0, 1, 0, 0), (1, 0, 0, 0)),
    6: ((0, 1, 0, 0), (-1, 0, 1, 0)),
    7: ((0, -1, 0, 1), (-1, 0, 1, 0)),
    8: ((0, -1, 0, 1), (1, 0, 0, 0)),
}


def grid_to_pixel(width: int, height: int, grid: tuple[int, int], orientation: int = 1) -> np.ndarray:
    """Return the affine matrix (2, 3) float64 from grid coordinates to pixel coordinates of the stored image.

    Args:
        width: Width of the upright image in pixels.
        height: Height of the upright image in pixels.
        grid: (rows, columns) of the feature map, which covers the whole image.
        orientation: EXIF orientation of the file, 1 to 8; anything else counts as 1, as in image viewers.

    Raises:
        ValueError: A size is less than 1.
    """
    if width < 1 or height < 1 or min(grid) < 1:
        raise ValueError(f"sizes are at least 1, got {width} x {height} and a grid of {grid[0]} x {grid[1]}")
    rows = np.asarray(_UPRIGHT_TO_STORED.get(orientation, _UPRIGHT_TO_STORED[1]), np.float64)
    scale = np.array([width / grid[1], height / grid[0]])
    return np.column_stack([rows[:, :2] * scale, rows[:, 2:] @ np.array([width, height], np.float64)])


def grid_to_points(matrix: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Map grid positions (..., 2) as (u, v) to pixel positions (..., 2) as (x, y)."""
    points: np.ndarray = np.asarray(positions, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return points


def points_to_grid(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map pixel positions (..., 2) as (x, y) to grid positions (..., 2) as (u, v); their floor is the patch."""
    positions: np.ndarray = (np.asarray(points, np.float64) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return positions


def grid_to_boxes(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Map boxes (..., 4) as (u0, v0, u1, v1) on the grid to boxes (..., 4) as (x0, y0, x1, y1) in pixels."""
    return _sort_corners(grid_to_points(matrix, _corners(boxes)))


def boxes_to_grid(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Map boxes (..., 4) as (x0, y0, x1, y1) in pixels to boxes (..., 4) as (u0, v0, u1, v1) on the grid, unrounded."""
    return _sort_corners(points_to_grid(matrix, _corners(boxes)))


def mask_to_grid(matrix: np.ndarray, mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the exact fraction (rows, columns) of each patch, 0 to 1, that a mask over the stored image covers.

    Args:
        matrix: `grid_to_pixel` of the image.
        mask: (H, W) bool, or weights of the pixels.
        grid: (rows, columns) of the feature map.

    Raises:
        ValueError: The mask is not two-dimensional.
    """
    mask = np.asarray(mask, np.float64)
    if mask.ndim != 2:
        raise ValueError(f"a mask is (height, width), got {mask.shape}")
    transposed = matrix[0, 0] == 0  # u runs along y of the stored image
    along_x, along_y = (grid[0], grid[1]) if transposed else (grid[1], grid[0])
    columns = _interval_means(mask, _patch_edges(matrix[0], along_x))  # (H, patches along x)
    shares = _interval_means(columns.T, _patch_edges(matrix[1], along_y)).T  # (patches along y, patches along x)
    return shares.T if transposed else shares


def grid_to_mask(matrix: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the value (H, W, ...) of each pixel of the stored image: that of the patch that contains its center.

    Args:
        matrix: `grid_to_pixel` of the image.
        values: Values (rows, columns, ...) of the patches, such as bool, class numbers or scores.
        size: (H, W) of the image as its file stores it.
    """
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    along = points_to_grid(matrix, np.stack([x, np.full_like(x, 0.5)], -1))
    down = points_to_grid(matrix, np.stack([np.full_like(y, 0.5), y], -1))
    if matrix[0, 0] == 0:
        u, v = down[:, 0][:, None], along[:, 1][None, :]
    else:
        u, v = along[:, 0][None, :], down[:, 1][:, None]
    row = np.clip(np.floor(v), 0, values.shape[0] - 1).astype(np.intp)
    column = np.clip(np.floor(u), 0, values.shape[1] - 1).astype(np.intp)
    mask: np.ndarray = np.asarray(values)[row, column]
    return mask


def _corners(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    return boxes.reshape(*boxes.shape[:-1], 2, 2)


def _sort_corners(corners: np.ndarray) -> np.ndarray:
    """Join corners (..., 2, 2) to boxes (..., 4) with the smaller coordinates first; rotation and flips swap them."""
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)


def _patch_edges(row: np.ndarray, count: int) -> np.ndarray:
    """Return the patch edges (count + 1,) along x or y of the stored image; they descend if it is flipped."""
    step = float(row[:2].sum())  # one of the two is 0
    return step * np.arange(count + 1) + float(row[2])


def _interval_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the means (M, n) of piecewise constant values (M, L) between n + 1 edges along the last axis."""
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    edges = np.clip(edges, 0, values.shape[1])
    low = np.minimum(edges.astype(np.intp), values.shape[1] - 1)
    at = sums[:, low] + (edges - low) * values[:, low]
    return np.asarray(np.diff(at, axis=1) / np.diff(edges))
