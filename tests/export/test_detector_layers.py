"""Layers of exported detectors against torchvision: suppression, RoIAlign, anchors, boxes."""

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, nms, roi_align
from torchvision.ops.poolers import LevelMapper

from gtsa_kit.export.detector_graph import LEVEL_SIDES, candidates
from gtsa_kit.export.detector_layers import RoiPyramid, Suppression, clip_boxes, decode_boxes, has_area

STRIDES = (4.0, 8.0, 16.0, 32.0)


def random_boxes(count: int, size: float, seed: int = 0) -> torch.Tensor:
    """Return boxes in clusters, so that many overlap."""
    torch.manual_seed(seed)
    centers = torch.rand(6, 2)[torch.randint(6, (count,))] * size + torch.randn(count, 2) * 0.05 * size
    half = (0.05 + 0.2 * torch.rand(count, 2)) * size / 2
    return torch.cat([centers - half, centers + half], dim=1)


def kept_by(suppress: Suppression, boxes: torch.Tensor, classes: torch.Tensor | None = None) -> list[int]:
    """Return the numbers of the boxes that are kept."""
    kept = suppress(boxes[None], torch.ones(1, len(boxes)), None if classes is None else classes[None])
    return kept[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_is_that_of_torchvision(threshold: float) -> None:
    boxes, falling = random_boxes(300, 100.0), torch.linspace(1, 0.1, 300)
    kept = kept_by(Suppression(threshold, 32), boxes)
    assert kept == nms(boxes, falling, threshold).tolist()
    assert 5 < len(kept) < 290
    classes = torch.randint(4, (300,))
    kept = kept_by(Suppression(threshold, 32), boxes, classes)
    assert kept == batched_nms(boxes.double(), falling.double(), classes, threshold).tolist()


def chain(length: int) -> torch.Tensor:
    """Return boxes each of which overlaps the next one alone: greedy suppression keeps every second one."""
    left = torch.arange(length) * 4.0
    return torch.stack([left, torch.zeros(length), left + 10, torch.full((length,), 10.0)], dim=1)


@pytest.mark.parametrize(("rounds", "right"), [(2, False), (7, False), (8, True), (9, True)])
def test_chains_longer_than_the_rounds_are_noticed(rounds: int, right: bool) -> None:
    """The last of 9 boxes is decided in the eighth round; the two before it may be wrong together."""
    boxes, valid = chain(9)[None], torch.ones(1, 9)
    suppress = Suppression(0.4, rounds)
    kept = suppress(boxes, valid)
    assert (kept[0].nonzero()[:, 0].tolist() == [0, 2, 4, 6, 8]) == right
    assert suppress.settled(kept, boxes, valid) == right


def test_boxes_that_are_equal_empty_or_invalid() -> None:
    same = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(5, 1)
    assert kept_by(Suppression(0.5, 16), same) == [0]
    assert kept_by(Suppression(0.5, 16), same, torch.tensor([0, 1, 0, 1, 2])) == [0, 1, 4]
    half = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 4.0]])  # the overlap is the threshold itself
    assert kept_by(Suppression(0.5, 16), half) == [0, 1] == nms(half, torch.tensor([0.9, 0.8]), 0.5).tolist()
    invalid = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    assert Suppression(0.5, 16)(same[None], invalid).tolist() == [[0, 1, 0, 0, 0]]
    empty = torch.zeros(3, 4)
    assert kept_by(Suppression(0.5, 16), empty) == [0, 1, 2]
    assert has_area(torch.cat([empty, same]), 1e-3).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_boxes_are_decoded_and_clipped_as_by_torchvision() -> None:
    boxes, deltas = random_boxes(50, 200.0), torch.randn(50, 4) * torch.tensor([3.0, 3.0, 12.0, 12.0])
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    expected = coder.decode_single(deltas, boxes)
    actual = decode_boxes(deltas, boxes, coder.weights, coder.bbox_xform_clip)
    assert torch.equal(actual, expected)
    assert torch.equal(clip_boxes(actual, 120, 180), clip_boxes_to_image(expected, (120, 180)))


@pytest.mark.parametrize("side", [7, 14])
def test_roi_align_is_that_of_torchvision_on_every_level(side: int) -> None:
    torch.manual_seed(0)
    size = (416, 608)  # the coarsest map has 13 x 19 positions
    maps = [torch.randn(2, 5, int(size[0] // stride), int(size[1] // stride)) for stride in STRIDES]
    boxes = clip_boxes_to_image(random_boxes(60, 500.0) * torch.rand(60, 1).exp(), size)
    boxes[:4] = torch.tensor([[0.0, 0, 608, 416], [607.9, 415.9, 608, 416], [0, 0, 0, 0], [9, 20, 300, 320]])
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2)
    pool.scales, pool.map_levels = [1 / stride for stride in STRIDES], LevelMapper(2, 5)
    both = [boxes[:30], boxes[30:]]
    expected = pool({str(i): one for i, one in enumerate(maps)}, both, [size] * 2)
    levels = pool.map_levels(both)
    assert sorted(set(levels.tolist())) == [0, 1, 2, 3]
    actual = RoiPyramid(maps, STRIDES, LEVEL_SIDES).align(boxes.reshape(2, 30, 4), side)
    assert actual.shape == (2, 30, side * side, 5)
    actual = actual.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


def test_samples_outside_of_a_map_are_zero_and_those_at_its_border_are_moved() -> None:
    """A box at the corner is a position wide at least, so its last samples lie beyond the map."""
    maps = [torch.ones(1, 1, 6, 4) * (1 + i) for i in range(4)]
    boxes = torch.tensor([[13.0, 21.0, 13.1, 21.1], [-9.0, -9.0, -4.5, -4.5], [-3.9, -3.9, 20.0, 30.0]])
    expected = roi_align(maps[0], [boxes], 7, 1 / 4, 2)[:, 0]
    actual = RoiPyramid(maps, STRIDES, LEVEL_SIDES).align(boxes[None], 7)[0, :, :, 0].unflatten(1, (7, 7))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert 0 < (expected[0] == 0).sum() < 49  # some samples lie outside
    assert (expected[1] == 0).any()


def test_many_boxes_are_read_in_parts() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 3, 8 // 2**i, 8 // 2**i) for i in range(4)]
    boxes = random_boxes(300, 32.0).clamp(0, 32)
    pyramid = RoiPyramid(maps, STRIDES, LEVEL_SIDES)
    whole = pyramid.align(boxes[None], 7)
    parts = [pyramid.align(part[None], 7) for part in boxes.split(100)]
    torch.testing.assert_close(whole, torch.cat(parts, dim=1), atol=1e-6, rtol=0)


def test_level_sides_are_those_of_torchvision() -> None:
    sides = np.nextafter(np.float32(224 * np.array([0.5, 1, 2])), np.float32(0))
    for side in [*sides.tolist(), 112.0, 224.0, 448.0, 111.9, 225.0, 1.0, 1000.0]:
        box = torch.tensor([[0.0, 0.0, side, side]])
        ours = sum(box[0, 2].mul(box[0, 3]).sqrt() >= limit for limit in LEVEL_SIDES)
        assert int(ours) == int(LevelMapper(2, 5)([box])), side


@pytest.mark.parametrize(
    ("proposals", "classes", "expected"), [(50, 5, 250), (300, 80, 1000), (1000, 80, 2000), (3000, 80, 3840)]
)
def test_no_more_candidates_than_tensorrt_sorts(proposals: int, classes: int, expected: int) -> None:
    assert candidates(proposals, proposals * classes) == expected
