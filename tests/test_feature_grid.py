"""Cells against Pillow's own idea of upright, and against sums over single pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from gtsa_kit.feature_grid import (
    boxes_to_grid,
    grid_to_boxes,
    grid_to_mask,
    grid_to_pixel,
    grid_to_points,
    mask_to_grid,
    points_to_grid,
)

ORIENTATIONS = range(1, 9)


def stored_and_upright(orientation: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a file whose values say where they lie, and the same as Pillow turns them: (H, W) of numbers."""
    numbers = np.arange(height * width, dtype=np.int32).reshape(height, width)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(numbers.astype(np.uint8)).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert height * width <= 256
    return numbers, upright.astype(np.int32)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_pixel_of_the_upright_image_is_found_in_the_file(orientation: int) -> None:
    stored, upright = stored_and_upright(orientation, 11, 17)
    height, width = upright.shape
    matrix = grid_to_pixel(width, height, (height, width), orientation)  # a cell for each pixel
    rows, columns = np.indices(upright.shape)
    stored_pixels = np.floor(grid_to_points(matrix, np.stack([columns + 0.5, rows + 0.5], -1))).astype(int)
    assert np.array_equal(stored[stored_pixels[..., 1], stored_pixels[..., 0]], upright)
    assert np.array_equal(grid_to_mask(matrix, upright, stored.shape), stored)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("grid", [(2, 3), (5, 4), (1, 1)])
def test_points_and_boxes_come_back(orientation: int, grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(orientation)
    matrix = grid_to_pixel(101, 67, grid, orientation)
    points = rng.uniform(0, 60, (50, 2))
    np.testing.assert_allclose(grid_to_points(matrix, points_to_grid(matrix, points)), points, atol=1e-9)
    boxes = np.concatenate([low := rng.uniform(0, 30, (50, 2)), low + rng.uniform(0, 30, (50, 2))], -1)
    np.testing.assert_allclose(grid_to_boxes(matrix, boxes_to_grid(matrix, boxes)), boxes, atol=1e-9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_whole_map_is_the_whole_file(orientation: int) -> None:
    matrix = grid_to_pixel(90, 60, (4, 6), orientation)
    stored = (60, 90) if orientation < 5 else (90, 60)  # height, width
    assert grid_to_boxes(matrix, np.array([0, 0, 6, 4])).tolist() == [0, 0, stored[1], stored[0]]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (14, 14)])
def test_a_mask_covers_what_fine_sampling_says(orientation: int, grid: tuple[int, int]) -> None:
    stored, upright = stored_and_upright(orientation, 10, 16)
    mask = np.random.default_rng(0).random(stored.shape) < 0.4
    upright_mask = mask.flatten()[upright]  # the same pixels, turned by Pillow
    matrix = grid_to_pixel(upright.shape[1], upright.shape[0], grid, orientation)
    # Each pixel in pieces so fine that no piece is cut by a cell's edge: then the share is a plain mean.
    pieces = np.kron(upright_mask, np.ones(grid))  # (H * h, W * w)
    expected = pieces.reshape(grid[0], upright.shape[0], grid[1], upright.shape[1]).mean((1, 3))
    np.testing.assert_allclose(mask_to_grid(matrix, mask, grid), expected, atol=1e-12)


def test_a_box_as_a_mask_fills_the_same_cells() -> None:
    matrix = grid_to_pixel(64, 48, (3, 4), 6)
    mask = np.zeros((64, 48), bool)  # turned by the orientation: the file stands
    x0, y0, x1, y1 = grid_to_boxes(matrix, np.array([1, 1, 3, 2])).astype(int)
    mask[y0:y1, x0:x1] = True
    expected = np.zeros((3, 4))
    expected[1:2, 1:3] = 1
    assert np.array_equal(mask_to_grid(matrix, mask, (3, 4)), expected)
    assert np.array_equal(grid_to_mask(matrix, expected > 0, (64, 48)), mask)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        grid_to_pixel(0, 5, (1, 1))
    with pytest.raises(ValueError, match="height, width"):
        mask_to_grid(grid_to_pixel(4, 4, (1, 1)), np.zeros((4, 4, 3)), (1, 1))
