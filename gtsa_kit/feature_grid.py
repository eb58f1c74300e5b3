"""Where the cells of a feature map lie on the image, as its file stores it: points, boxes and masks, both ways.

A cell is the unit square [u, u + 1] x [v, v + 1], u counted along the map's width and v along its height; a pixel
likewise, x to the right and y down. Between them stands one affine, `grid_to_pixel` (2, 3): (x, y) = A @ (u, v, 1). It
holds the resize (a stretch of the upright image onto the input) and the EXIF orientation, undone: cameras and
annotation tools count pixels in the file, viewers and the encoder look at it upright.
"""

import numpy as np

# EXIF orientation -> (x, y) in the file of a point (X, Y) of the upright image that is W x H, as rows of a matrix
# over (X, Y, W, H).
_STORED = {
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
    """The affine (2, 3), float64, from cells to pixels of the file.

    Args:
        width, height: Of the upright image.
        grid: (h, w) of the feature map, which covers the whole image.
        orientation: The file's EXIF orientation, 1 to 8; anything else counts as 1, as in viewers.
    """
    if width < 1 or height < 1 or min(grid) < 1:
        raise ValueError(f"sizes are at least 1, got {width} x {height} and a grid of {grid[0]} x {grid[1]}")
    rows = np.asarray(_STORED.get(orientation, _STORED[1]), np.float64)
    scale = np.array([width / grid[1], height / grid[0]])
    return np.column_stack([rows[:, :2] * scale, rows[:, 2:] @ np.array([width, height], np.float64)])


def grid_to_points(matrix: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(..., 2) positions (u, v) on the map to (..., 2) positions (x, y) on the image."""
    points: np.ndarray = np.asarray(cells, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return points


def points_to_grid(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 2) positions (x, y) on the image to (..., 2) positions (u, v) on the map; floor them for an index."""
    cells: np.ndarray = (np.asarray(points, np.float64) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return cells


def grid_to_boxes(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(..., 4) boxes (u0, v0, u1, v1) on the map to (..., 4) boxes (x0, y0, x1, y1) on the image."""
    return _sorted(grid_to_points(matrix, _corners(boxes)))


def boxes_to_grid(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(..., 4) boxes (x0, y0, x1, y1) on the image to (..., 4) boxes (u0, v0, u1, v1) on the map, not rounded."""
    return _sorted(points_to_grid(matrix, _corners(boxes)))


def mask_to_grid(matrix: np.ndarray, mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) over the file's pixels to the share (h, w) of each cell that it covers, 0 to 1, exact.

    Args:
        matrix: `grid_to_pixel` of the image.
        mask: bool, or weights of the pixels.
        grid: (h, w) of the map.
    """
    mask = np.asarray(mask, np.float64)
    if mask.ndim != 2:
        raise ValueError(f"a mask is (height, width), got {mask.shape}")
    lying = matrix[0, 0] == 0  # u runs along the file's y
    along_x, along_y = (grid[0], grid[1]) if lying else (grid[1], grid[0])
    columns = _means(mask, _edges(matrix[0], along_x))  # (H, cells along x)
    cells = _means(columns.T, _edges(matrix[1], along_y)).T  # (cells along y, cells along x)
    return cells.T if lying else cells


def grid_to_mask(matrix: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values (h, w, ...) of cells to (H, W, ...) of the file's pixels: each takes the cell that its center lies in.

    Args:
        matrix: `grid_to_pixel` of the image.
        values: bool, class numbers, scores.
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


def _sorted(corners: np.ndarray) -> np.ndarray:
    """(..., 2 corners, 2) to (..., 4) with the smaller corner first, which a turn or a flip has swapped."""
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)


def _edges(row: np.ndarray, cells: int) -> np.ndarray:
    """Where the edges of the cells lie along x or y of the file; they fall where the image is flipped."""
    step = float(row[:2].sum())  # one of the two is 0
    return step * np.arange(cells + 1) + float(row[2])


def _means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of (M, L) values, taken as constant over each unit, between (n + 1) edges along the last axis: (M, n)."""
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    edges = np.clip(edges, 0, values.shape[1])
    low = np.minimum(edges.astype(np.intp), values.shape[1] - 1)
    at = sums[:, low] + (edges - low) * values[:, low]
    return np.asarray(np.diff(at, axis=1) / np.diff(edges))
