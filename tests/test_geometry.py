import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from gtsa_kit.geometry import box_area, intersect, roi_weights, rotate_boxes, rotate_maps, to_crop_coordinates

SIDE = 12


def some_boxes(count: int, seed: int, side: int = SIDE) -> Tensor:
    """Return random boxes (count, 4) int64 of at least one patch in width and height."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(side, (count, 2), generator=generator)
    size = 1 + (torch.rand(count, 2, generator=generator) * (side - low)).long()
    return torch.cat([low, low + size], -1)


def painted(box: Tensor, side: int = SIDE) -> Tensor:
    """Return a mask (side, side) bool, rows first, of the patches in a box."""
    x0, y0, x1, y1 = box.tolist()
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[y0 : max(y0, y1), x0 : max(x0, x1)] = True
    return mask


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_area_and_overlap_count_cells():
    a, b = some_boxes(200, 1), some_boxes(200, 2)
    overlap = intersect(a, b)
    areas, shared = box_area(a), box_area(overlap)
    for i in range(200):
        assert areas[i] == painted(a[i]).sum()
        assert shared[i] == (painted(a[i]) & painted(b[i])).sum()
        if shared[i]:
            assert torch.equal(painted(overlap[i]), painted(a[i]) & painted(b[i]))
    assert (shared == 0).any()  # apart, or touching
    assert (shared > 0).any()


def test_overlap_broadcasts():
    a, b = some_boxes(6, 1).view(2, 3, 4), some_boxes(4, 2).view(2, 2, 4)
    every = intersect(a[:, :, None], b[:, None])
    assert every.shape == (2, 3, 2, 4)
    assert torch.equal(every[1, 2, 0], intersect(a[1, 2], b[1, 0]))


def test_boxes_apart_on_both_axes_share_nothing():
    # Two negative sides must not make a positive area.
    assert box_area(intersect(torch.tensor([0, 0, 2, 2]), torch.tensor([5, 5, 9, 9]))) == 0


def test_within_maps_the_crop_to_the_unit_square():
    crop = torch.tensor([10.0, 20.0, 50.0, 100.0])
    inside = torch.tensor([[10.0, 20.0, 50.0, 100.0], [20.0, 20.0, 30.0, 60.0], [50.0, 100.0, 50.0, 100.0]])
    expected = torch.tensor([[0.0, 0, 1, 1], [0.25, 0, 0.5, 0.5], [1, 1, 1, 1]])
    assert torch.equal(to_crop_coordinates(inside, crop), expected)


def test_within_can_be_undone():
    boxes, crops = some_boxes(50, 3, 200).double(), some_boxes(50, 4, 200).double()
    size = (crops[:, 2:] - crops[:, :2]).repeat(1, 2)
    torch.testing.assert_close(to_crop_coordinates(boxes, crops) * size + crops[:, :2].repeat(1, 2), boxes)


# --- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", range(4))
def test_rotated_box_covers_the_rotated_mask(rotation):
    boxes = some_boxes(100, 5)
    rotated = rotate_boxes(boxes / SIDE, torch.full((100,), rotation)) * SIDE
    for box, now in zip(boxes, rotated, strict=True):
        assert torch.equal(painted(now.round().long()), torch.rot90(painted(box), rotation))
    torch.testing.assert_close(rotated, rotated.round(), atol=1e-5, rtol=0)


def test_each_box_has_its_own_rotation():
    boxes, rotations = torch.rand(3, 5, 4, dtype=torch.float64), torch.randint(-7, 8, (3, 5))
    rotated = rotate_boxes(boxes, rotations)
    for i in range(3):
        for j in range(5):
            assert torch.equal(rotated[i, j], rotate_boxes(boxes[i, j], rotations[i, j] % 4))
    torch.testing.assert_close(rotate_boxes(rotated, -rotations), boxes)


def test_rotated_boxes_stay_boxes():
    boxes = (some_boxes(100, 6) / SIDE).double()
    for rotation in range(4):
        rotated = rotate_boxes(boxes, torch.full((100,), rotation))
        assert (rotated[:, :2] < rotated[:, 2:]).all()
        torch.testing.assert_close(box_area(rotated), box_area(boxes))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("side", [1, 4, 7, 10])
def test_rotated_maps_are_rot90_bit_for_bit(batch, side):
    maps = torch.randn(*batch, 3, side, side)
    maps.view(-1)[0] = float("nan")  # moved as it is, like any other value
    for offset in range(-4, 8):
        rotations = (torch.arange(math.prod(batch)) + offset).view(batch)
        rotated = rotate_maps(maps, rotations)
        assert rotated.shape == maps.shape
        for one, now, rotation in zip(
            maps.reshape(-1, 3, side, side),
            rotated.reshape(-1, 3, side, side),
            rotations.flatten().tolist(),
            strict=True,
        ):
            expected = torch.rot90(one, rotation, dims=(-2, -1))
            assert torch.equal(now.view(torch.int32), expected.contiguous().view(torch.int32))


def test_rotated_maps_pass_gradients_back_to_their_cells():
    maps = torch.randn(4, 2, 3, 3, requires_grad=True)
    weights = torch.randn(4, 2, 3, 3)
    rotations = torch.arange(4)
    (rotate_maps(maps, rotations) * weights).sum().backward()
    assert torch.equal(maps.grad, rotate_maps(weights, -rotations))


def test_rotated_boxes_and_rotated_maps_agree():
    # Two conventions that must be one: painting then turning is turning then painting.
    boxes = some_boxes(40, 7)
    rotations = torch.arange(40) % 4
    masks = torch.stack([painted(box) for box in boxes])[:, None]
    now = (rotate_boxes(boxes / SIDE, rotations) * SIDE).round().long()
    assert torch.equal(rotate_maps(masks, rotations)[:, 0], torch.stack([painted(box) for box in now]))


def test_maps_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="only square maps"):
        rotate_maps(torch.zeros(1, 3, 4, 5), torch.tensor([1]))


# --- RoIAlign --------------------------------------------------------------------------------------------------------

MAPS = [(14, 14), (6, 6), (7, 9)]
EDGES = [[0.0, 0, 1, 1], [0, 0, 0.3, 0.4], [0.6, 0.7, 1, 1], [0, 0.2, 1, 0.3], [0.9, 0, 1, 1], [0, 0.95, 0.02, 1]]


def unit_boxes(count: int) -> Tensor:
    ends = torch.rand(2, count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    inside = torch.cat([ends.amin(0), ends.amax(0)], -1)
    return torch.cat([inside, torch.tensor(EDGES, dtype=torch.float64)])


def by_products(maps: Tensor, boxes: Tensor, bins: int) -> Tensor:
    x0, y0, x1, y1 = boxes.unbind(-1)
    rows = roi_weights(y0, y1, bins, maps.shape[-2])
    columns = roi_weights(x0, x1, bins, maps.shape[-1])
    return torch.einsum("kph,chw,kqw->kcpq", rows, maps, columns)


def by_torchvision(maps: Tensor, boxes: Tensor, bins: int) -> Tensor:
    height, width = maps.shape[-2:]
    scaled = boxes * torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return roi_align(maps[None], [scaled], bins, sampling_ratio=-1, aligned=True)


@pytest.mark.parametrize("bins", [10, 4, 1])
@pytest.mark.parametrize("size", MAPS)
def test_products_are_roi_align(size, bins):
    maps = torch.randn(3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    boxes = unit_boxes(200)
    torch.testing.assert_close(by_products(maps, boxes, bins), by_torchvision(maps, boxes, bins), atol=1e-9, rtol=0)


@pytest.mark.parametrize("bins", [10, 4, 1])
@pytest.mark.parametrize("size", MAPS)
def test_gradients_are_those_of_roi_align(size, bins):
    maps = torch.randn(2, *size, dtype=torch.float64, requires_grad=True)
    boxes = unit_boxes(20)
    upstream = torch.randn(len(boxes), 2, bins, bins, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(pool(maps, boxes, bins), maps, upstream)[0] for pool in (by_products, by_torchvision)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("bins", [10, 4, 1])
@pytest.mark.parametrize("length", [1, 6, 10, 14, 40])
def test_each_bin_is_an_average(length, bins):
    # No sample may be lost, not even where a bin is exactly as long as a whole number of cells.
    low = torch.tensor([0.0, 0.0, 0.25, 0.999, 0.5, 0.0])
    high = torch.tensor([1.0, 0.5, 0.75, 1.0, 0.5, 1e-6])
    for dtype in (torch.float32, torch.float64):
        weights = roi_weights(low.to(dtype), high.to(dtype), bins, length)
        assert weights.shape == (6, bins, length)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(6, bins, dtype=dtype))


def test_single_precision_is_close_to_double():
    boxes = unit_boxes(200)
    low, high = boxes[:, 0], boxes[:, 2]
    single = roi_weights(low.float(), high.float(), 10, 14)
    torch.testing.assert_close(single.double(), roi_weights(low, high, 10, 14), atol=2e-6, rtol=0)
