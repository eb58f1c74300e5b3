"""Near-duplicates: groups of images by the cosines of all pairs, computed one tile of the matrix at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gtsa_kit.embedding.browse.linkage import split_chain
from gtsa_kit.embedding.browse.products import UnitRows
from gtsa_kit.embedding.browse.vectors import FLOAT32_SLACK, ImageRow, VectorBlock, VectorTable, cosines

if TYPE_CHECKING:
    import torch

ROW_BLOCK_BYTES = 256 << 20
"""Size of the vectors that stay in memory during one pass over the rest: as stored, and divided by their norms."""

TILE = 2048
"""Rows and columns of a tile of cosines."""

PAIRS = 1 << 16
"""Pairs that are compared in float64 at a time."""


@dataclass(frozen=True)
class DuplicateMember:
    """One image of a group."""

    row: ImageRow
    cosine: float
    """Cosine with the first image of the group."""


@dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates in a dataset. All pairs in a group reach the threshold."""

    groups: list[list[DuplicateMember]]
    """In each group, first the image to keep, then the others in the order of the rows."""
    invalid: list[ImageRow]
    """Rows without a direction (zeros, NaN, infinity), which belong to no group."""


def find_duplicates(
    data: VectorTable,
    threshold: float,
    device: "torch.device | None",
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Duplicates:
    """Return groups of images in which the cosine of every pair is at least `threshold`.

    Pairs connect images to chains; float32 products select them, and float64 decides about those near the threshold.
    The ends of a chain can be very different, for example in a video, so that each chain is split by complete linkage:
    see `linkage.split_chain`. In each group, the image with the most pixels is kept, among equals the first.

    Args:
        data: The dataset.
        threshold: Smallest cosine of a pair, above 0, up to 1.
        device: Device of the products; None computes them with numpy.
        on_progress: Called with (rows done, total rows); a row is done when it is compared with all later rows.
    """
    assert 0 < threshold <= 1
    chains, invalid = UnionFind(len(data)), list[int]()
    for start, row_block in _row_blocks(data):
        invalid += [index for block in row_block for index in block.indices[~block.valid].tolist()]
        for column_block in data.blocks(start, TILE):
            for block in row_block:
                if column_block.start >= block.start:
                    _join_pairs(block, column_block, threshold, device, chains)
        on_progress(row_block[-1].start + len(row_block[-1].vectors), len(data))
    groups = sorted(_split_chains(data, chains.groups(), threshold), key=lambda group: int(group[0]))
    return Duplicates(_describe_groups(data, groups), data.rows(invalid))


class UnionFind:
    """Partition of the numbers 0 to n - 1 into groups; the smallest member represents its group."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def root(self, members: np.ndarray) -> np.ndarray:
        """Return the smallest member of each one's group."""
        while True:
            parents = self.parent[members]
            if np.array_equal(parents, members):
                return members
            members = parents

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Join the groups of `a[i]` and `b[i]` for every i."""
        while True:
            a, b = self.root(a), self.root(b)
            different = a != b
            if not different.any():
                return
            a, b = a[different], b[different]
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))
            self.parent = self.root(self.parent)

    def groups(self) -> list[np.ndarray]:
        """Return the groups of at least two members, with ascending members, sorted by their first member."""
        roots = self.root(np.arange(len(self.parent)))
        order = np.argsort(roots, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
        return [part for part in parts if len(part) > 1]


def _row_blocks(data: VectorTable) -> Iterator[tuple[int, list[VectorBlock]]]:
    """Yield lists of blocks of up to `TILE` rows, in order, each list with the index of its first row."""
    row_block: list[VectorBlock] = []
    for block in data.blocks(max_rows=TILE):
        if sum(2 * b.vectors.nbytes for b in [*row_block, block]) > ROW_BLOCK_BYTES and row_block:
            yield row_block[0].start, row_block
            row_block = []
        row_block.append(block)
    yield row_block[0].start, row_block


def _join_pairs(
    rows: VectorBlock, columns: VectorBlock, threshold: float, device: "torch.device | None", groups: UnionFind
) -> None:
    """Join all pairs of a row and a later column whose cosine reaches the threshold."""
    roots = groups.root(np.concatenate([rows.indices, columns.indices]))
    if (roots == roots[0]).all():  # many copies of one image
        return
    i, j = UnitRows(rows.unit, device).pairs(UnitRows(columns.unit, device), threshold - FLOAT32_SLACK)
    later = columns.start + j > rows.start + i
    i, j = i[later], j[later]
    for start in range(0, len(i), PAIRS):
        a, b = i[start : start + PAIRS], j[start : start + PAIRS]
        different = groups.root(rows.start + a) != groups.root(columns.start + b)
        a, b = a[different], b[different]
        similar = cosines(rows.vectors[a], columns.vectors[b]) >= threshold
        groups.join(rows.start + a[similar], columns.start + b[similar])


def _split_chains(data: VectorTable, chains: list[np.ndarray], threshold: float) -> Iterator[np.ndarray]:
    """Yield the groups of at least two rows of all chains, with ascending rows."""
    yield from (chain for chain in chains if len(chain) == 2)
    for batch in _batch_chains([chain for chain in chains if len(chain) > 2], ROW_BLOCK_BYTES // (4 * data.dim)):
        ends = np.cumsum([len(chain) for chain in batch])
        vectors = np.split(data.vectors(np.concatenate(batch)), ends[:-1])
        for chain, part in zip(batch, vectors, strict=True):
            labels = split_chain(part, threshold)
            groups = (chain[labels == label] for label in np.unique(labels))
            yield from (group for group in groups if len(group) > 1)


def _batch_chains(chains: list[np.ndarray], max_rows: int) -> Iterator[list[np.ndarray]]:
    """Yield chains in batches of at most `max_rows` rows, or of one chain."""
    batch: list[np.ndarray] = []
    for chain in chains:
        if batch and sum(map(len, batch)) + len(chain) > max_rows:
            yield batch
            batch = []
        batch.append(chain)
    if batch:
        yield batch


def _describe_groups(data: VectorTable, groups: list[np.ndarray]) -> list[list[DuplicateMember]]:
    """Select the image to keep of each group, and compare the others with it."""
    if not groups:
        return []
    rows = {row.index: row for row in data.rows(np.concatenate(groups))}
    kept = [max(group.tolist(), key=lambda i: (rows[i].width * rows[i].height, -i)) for group in groups]
    others = np.concatenate([group[group != first] for group, first in zip(groups, kept, strict=True)])
    firsts = np.repeat(kept, [len(group) - 1 for group in groups])
    other_cosines = iter(_row_cosines(data, others, firsts).tolist())
    described = []
    for group, first in zip(groups, kept, strict=True):
        members = [DuplicateMember(rows[index], next(other_cosines)) for index in group.tolist() if index != first]
        described.append([DuplicateMember(rows[first], 1.0), *members])
    return described


def _row_cosines(data: VectorTable, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines (n,) of rows `a[i]` and `b[i]`, computed in slices of `ROW_BLOCK_BYTES`."""
    step = max(1, ROW_BLOCK_BYTES // (2 * 8 * data.dim))
    parts = []
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        unique, positions = np.unique(b[part], return_inverse=True)
        parts.append(cosines(data.vectors(a[part]), data.vectors(unique)[positions]))
    return np.concatenate(parts)
