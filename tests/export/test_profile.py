"""Shapes that engines are built for, with patches of any size."""

import pytest

from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape, make_profile
from gtsa_kit.export.spec import Range


@pytest.mark.parametrize(
    ("patch", "training_size", "optimal", "maximum"),
    [(16, 224, 224, 512), (14, 224, 224, 504), (14, 518, 518, 518), (32, 224, 224, 512), (8, 640, 640, 640)],
)
def test_an_open_range_ends_at_512_pixels_or_at_the_training_size(
    patch: int, training_size: int, optimal: int, maximum: int
) -> None:
    side = Range(patch, None, patch)
    ranges = InputRanges(Range(1, None), side, side).bounded(OptimalShape(), training_size)
    profile = make_profile(ranges, OptimalShape(), training_size)
    assert profile.min == (1, 3, patch, patch)
    assert profile.opt == (8, 3, optimal, optimal)
    assert profile.max == (16, 3, maximum, maximum)
