"""Images that are nearly the same: all pairs, a tile of cosines at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gtsa_kit.embedding.browse.vectors import SLACK, Block, Row, Vectors, cosines

SHELF_BYTES = 256 << 20
"""Of vectors that stay in memory while the file is read past them once: as stored, and of length 1."""

TILE = 2048
"""Rows and columns of cosines that are made together."""

PAIRS = 1 << 16
"""That are compared in float64 together."""


@dataclass(frozen=True)
class Member:
    """One image of a group."""

    row: Row
    cosine: float
    """With the group's first."""
    drop: bool
    """The first is as near as the threshold asks, so that this one could go."""


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found."""

    groups: list[list[Member]]
    """Each with the image to keep first, then the others in the order of the rows."""
    unsound: int
    """Rows without a direction, which are nobody's duplicate."""

    @property
    def droppable(self) -> int:
        """Images that could go: each has one that is kept at or above the threshold."""
        return sum(member.drop for group in self.groups for member in group)


def find_duplicates(
    data: Vectors,
    threshold: float,
    device: torch.device,
    on_pairs: Callable[[int, int], None] = lambda *_: None,
) -> Duplicates:
    """Groups of images that chains of pairs with a cosine of at least `threshold` join.

    float32 chooses the pairs, float64 decides on those near the threshold. Of a group the image with the most
    pixels is kept, among equals the first. The two ends of a chain may be less alike than its links: only what is near
    enough to the one kept counts as droppable.

    Args:
        data: The dataset.
        threshold: Above 0, up to 1.
        device: What multiplies.
        on_pairs: Told (rows done, of how many), in rows compared with all that follow.
    """
    assert 0 < threshold <= 1
    groups, unsound = Groups(len(data)), 0
    for start, shelf in _shelves(data):
        unsound += int(sum((~block.sound).sum() for block in shelf))
        for block in data.blocks(start, TILE):
            for ours in shelf:
                if block.start >= ours.start:
                    _join_near(ours, block, threshold, device, groups)
        on_pairs(shelf[-1].start + len(shelf[-1].vectors), len(data))
    return Duplicates(_described(data, groups.lists(), threshold), unsound)


class Groups:
    """Numbers 0 to n - 1 in groups, each known by its smallest member."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def root(self, members: np.ndarray) -> np.ndarray:
        """The smallest member of each one's group."""
        while True:
            above = self.parent[members]
            if np.array_equal(above, members):
                return members
            members = above

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Put each `a` and its `b` into one group."""
        while True:
            a, b = self.root(a), self.root(b)
            apart = a != b
            if not apart.any():
                return
            a, b = a[apart], b[apart]
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))
            self.parent = self.root(self.parent)

    def lists(self) -> list[np.ndarray]:
        """The groups of two and more: ascending members, ascending first members."""
        roots = self.root(np.arange(len(self.parent)))
        order = np.argsort(roots, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
        return [part for part in parts if len(part) > 1]


def _shelves(data: Vectors) -> Iterator[tuple[int, list[Block]]]:
    """The dataset in order, in lists of blocks of up to `TILE` rows, each list with its first row."""
    shelf: list[Block] = []
    for block in data.blocks(rows=TILE):
        if sum(2 * b.vectors.nbytes for b in [*shelf, block]) > SHELF_BYTES and shelf:
            yield shelf[0].start, shelf
            shelf = []
        shelf.append(block)
    yield shelf[0].start, shelf


def _join_near(ours: Block, theirs: Block, threshold: float, device: torch.device, groups: Groups) -> None:
    """Join all pairs of one of `ours` and a later one of `theirs` that are near enough."""
    roots = groups.root(np.concatenate([ours.numbers, theirs.numbers]))
    if (roots == roots[0]).all():  # many copies of one image
        return
    rough = torch.from_numpy(ours.unit).to(device) @ torch.from_numpy(theirs.unit).to(device).T
    i, j = (side.cpu().numpy() for side in (rough >= threshold - SLACK).nonzero(as_tuple=True))
    later = theirs.start + j > ours.start + i
    i, j = i[later], j[later]
    for start in range(0, len(i), PAIRS):
        a, b = i[start : start + PAIRS], j[start : start + PAIRS]
        apart = groups.root(ours.start + a) != groups.root(theirs.start + b)
        a, b = a[apart], b[apart]
        near = cosines(ours.vectors[a], theirs.vectors[b]) >= threshold
        groups.join(ours.start + a[near], theirs.start + b[near])


def _described(data: Vectors, groups: list[np.ndarray], threshold: float) -> list[list[Member]]:
    """Choose whom to keep, and compare the others with it."""
    if not groups:
        return []
    rows = {row.index: row for row in data.rows(np.concatenate(groups))}
    kept = [max(group.tolist(), key=lambda i: (rows[i].width * rows[i].height, -i)) for group in groups]
    others = np.concatenate([group[group != first] for group, first in zip(groups, kept, strict=True)])
    firsts = np.repeat(kept, [len(group) - 1 for group in groups])
    near = iter(_compared(data, others, firsts).tolist())
    found = []
    for group, first in zip(groups, kept, strict=True):
        rest = [(rows[index], next(near)) for index in group.tolist() if index != first]
        found.append([Member(rows[first], 1.0, False), *(Member(row, c, c >= threshold) for row, c in rest)])
    return found


def _compared(data: Vectors, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of rows `a` and `b`, (n,) each, in slices that fit on a shelf."""
    step = max(1, SHELF_BYTES // (2 * 8 * data.dim))
    found = []
    for start in range(0, len(a), step):
        some = slice(start, start + step)
        different, place = np.unique(b[some], return_inverse=True)
        found.append(cosines(data.vectors(a[some]), data.vectors(different)[place]))
    return np.concatenate(found)
