"""Feature maps in one Zarr v3 group, written a job shard at a time.

Fixed size: an array (N, D, h, w) for each output; a Zarr shard holds the rows of one job shard, a chunk one row.
Ragged: an array (cells, D) for each output, an image's cells in rows from `offsets[i]` on, as many as
`grid_hw[i]` has; each job shard begins a Zarr shard, so that no shard is written twice. Gaps are not stored.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from gtsa_kit.embedding.rows import Row, ShardRule

CHUNK_CELLS = 256
SIDE_ROWS = 1024
"""Rows a chunk of the arrays that describe the rows."""


@dataclass(frozen=True)
class DenseSpec:
    """What the arrays are like."""

    outputs: tuple[str, ...]
    dim: int
    dtype: str
    rule: ShardRule
    grid: tuple[int, int] | None
    """(h, w) if all are alike; None is ragged."""


class DenseStore:
    """The group, open for writing."""

    def __init__(self, path: Path, spec: DenseSpec, rows: int, cells: int) -> None:
        """Go on after `rows` rows and `cells` cells; whatever lies beyond is taken away."""
        self.path, self.spec, self.rows, self.cells = path, spec, rows, cells
        self.group = zarr.open_group(path, mode="a", zarr_format=3)
        self.arrays = {name: self._array(name) for name in self._shapes()}
        self._resize(rows, cells)

    def write(self, rows: Sequence[Row]) -> None:
        """One job shard."""
        first = self.rows
        grids = np.array([next(iter(row.maps.values())).shape[1:] for row in rows], np.int32)
        if self.spec.grid is None:
            counts = grids.astype(np.int64).prod(1)
            offsets = self.cells + np.concatenate([[0], np.cumsum(counts)[:-1]])
            used = int(self.cells + counts.sum())
            self._resize(first + len(rows), used)
            for name in self.spec.outputs:
                flat = [row.maps[name].reshape(self.spec.dim, -1).T for row in rows]
                self.arrays[name][self.cells : used] = np.concatenate(flat).astype(self.spec.dtype)
                self._sync(name, self.cells, used)
            self.arrays["offsets"][first : first + len(rows)] = offsets
            self.arrays["grid_hw"][first : first + len(rows)] = grids
            assert self.spec.rule.cells is not None
            self.cells = -(-used // self.spec.rule.cells) * self.spec.rule.cells
        else:
            self._resize(first + len(rows), 0)
            for name in self.spec.outputs:
                self.arrays[name][first : first + len(rows)] = np.stack(
                    [row.maps[name].astype(self.spec.dtype, copy=False) for row in rows]
                )
                self._sync(name, first, first + len(rows))
        self.arrays["grid_to_pixel"][first : first + len(rows)] = np.stack([row.grid_to_pixel for row in rows])
        self.rows = first + len(rows)
        for name in self._side_arrays():
            self._sync(name, first, self.rows)

    def _shapes(self) -> dict[str, dict[str, Any]]:
        """What each array is created with, at no rows."""
        spec, rule = self.spec, self.spec.rule
        shapes: dict[str, dict[str, Any]] = {}
        for name in spec.outputs:
            if spec.grid is None:
                assert rule.cells is not None
                shape, chunk, shard = (0, spec.dim), (CHUNK_CELLS, spec.dim), (rule.cells, spec.dim)
            else:
                row = (spec.dim, *spec.grid)
                shape, chunk, shard = (0, *row), (1, *row), (rule.rows, *row)  # type: ignore[assignment]
            shapes[name] = {"shape": shape, "chunks": chunk, "shards": shard, "dtype": spec.dtype}
        return shapes | self._side_arrays()

    def _side_arrays(self) -> dict[str, dict[str, Any]]:
        sides = {"grid_to_pixel": ((2, 3), "float64")}
        if self.spec.grid is None:
            sides |= {"offsets": ((), "int64"), "grid_hw": ((2,), "int32")}  # type: ignore[dict-item]
        return {
            name: {"shape": (0, *shape), "chunks": (SIDE_ROWS, *shape), "dtype": dtype}
            for name, (shape, dtype) in sides.items()
        }

    def _array(self, name: str) -> Any:
        if name in self.group:
            return self.group[name]
        # Features hardly shrink (float16: by a tenth), and packing them would cost more than the disk gives.
        return self.group.create_array(name, **self._shapes()[name], compressors=None)

    def _resize(self, rows: int, cells: int) -> None:
        for name, array in self.arrays.items():
            length = cells if name in self.spec.outputs and self.spec.grid is None else rows
            if array.shape[0] != length:
                array.resize((length, *array.shape[1:]))

    def _sync(self, name: str, first: int, last: int) -> None:
        """Onto the disk, before the journal says that it is there."""
        array = self.arrays[name]
        step = (array.shards or array.chunks)[0]
        for index in range(first // step, -(-last // step)):
            file = self.path.joinpath(name, "c", str(index), *["0"] * (array.ndim - 1))
            for path in (file, self.path / name / "zarr.json"):
                if path.exists():
                    _sync(path)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
