"""What passes from the engines to the files: one image's features, or why there are none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Row:
    """One image."""

    place: int
    """In the listing."""
    name: str
    sha256: str
    width: int
    height: int
    """Of the upright image."""
    embedding: np.ndarray
    """(D,)"""
    grid_to_pixel: np.ndarray
    """(2, 3), float64: see gtsa_kit.feature_grid."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(D, h, w) by the name of the output; empty unless maps are asked for."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be used."""

    place: int
    name: str
    reason: str


@dataclass(frozen=True)
class ShardRule:
    """When a shard is full: after `rows` rows, or before `cells` cells of ragged maps are exceeded."""

    rows: int
    cells: int | None = None
    """Also the size of the shards of the arrays; an image with more takes several of them."""


class ShardFill:
    """How full the shard at hand is; engines and writers count alike, so that batches never straddle shards."""

    def __init__(self, rule: ShardRule) -> None:
        self.rule = rule
        self.rows = self.cells = 0

    def takes(self, cells: int) -> bool:
        """Whether an image with so many cells still fits."""
        if self.rows == 0:
            return True
        return self.rows < self.rule.rows and (self.rule.cells is None or self.cells + cells <= self.rule.cells)

    def add(self, cells: int) -> None:
        """Count one image; into a new shard if it does not fit."""
        if not self.takes(cells):
            self.rows = self.cells = 0
        self.rows, self.cells = self.rows + 1, self.cells + cells
