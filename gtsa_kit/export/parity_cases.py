"""Shapes of the inputs that the parity gate runs."""

from dataclasses import dataclass
from typing import Final

from gtsa_kit.export.spec import Range


@dataclass(frozen=True)
class ParityCase:
    """One input shape of the parity gate."""

    batch: int
    height: int
    width: int


PARITY_CASES: Final[tuple[ParityCase, ...]] = (
    ParityCase(1, 224, 224),
    ParityCase(2, 224, 224),
    ParityCase(7, 96, 96),
    ParityCase(1, 160, 320),
    ParityCase(2, 336, 112),
    ParityCase(1, 1, 1),
)
"""Squares of the base size, small squares in a large batch, wide and tall inputs, and the smallest input.

They are clamped to the sizes that an artifact takes, so the last one becomes a single patch.
"""


def parity_cases(batch: Range, height: Range, width: Range) -> tuple[ParityCase, ...]:
    """Return `PARITY_CASES` clamped to the ranges, and the ends of the ranges; each case once, in this order."""
    ends = [ParityCase(batch.min, height.min, width.min)]
    if height.max is not None and width.max is not None:
        ends.append(ParityCase(batch.clamp(1), height.max, width.max))
    clamped = (
        ParityCase(batch.clamp(c.batch), height.clamp(c.height), width.clamp(c.width)) for c in (*PARITY_CASES, *ends)
    )
    return tuple(dict.fromkeys(clamped))
