"""Feature maps in one Zarr v3 group, written one job shard at a time.

Maps of a fixed size form an array (N, D, h, w) for each output. A Zarr shard holds the rows of one job shard, and a
chunk holds one row.

Ragged maps form an array (patches, D) for each output. The patches of image i start at `offsets[i]`, row by row, and
`grid_hw[i]` is the shape of its map. Each job shard begins a new Zarr shard, so no Zarr shard is written twice. The
gaps between them are not stored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from gtsa_kit.embedding.dense_spec import DenseSpec
from gtsa_kit.embedding.rows import FeatureRow
from gtsa_kit.files import sync_file

CHUNK_PATCHES = 256
"""Patches per chunk of a ragged array."""
CHUNK_ROWS = 1024
"""Rows per chunk of the arrays with one small entry for each row, such as `grid_to_pixel`."""


class OneWriterStore(LocalStore):
    """Store of the process that locked the folder; Zarr's own excludes others by hard links, which some disks lack."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value unless the key exists."""
        if not await self.exists(key):
            await self.set(key, value)


class DenseWriter:
    """Writer of the Zarr group of feature maps."""

    def __init__(self, path: Path, spec: DenseSpec, rows: int, patches: int) -> None:
        """Open or create the group, and truncate the arrays to `rows` rows and `patches` patches."""
        self.path, self.spec, self.rows, self.patches = path, spec, rows, patches
        self.group = zarr.open_group(OneWriterStore(path), mode="a", zarr_format=3)
        self.arrays = {name: self._open_array(name, layout) for name, layout in self._layouts().items()}
        self._set_lengths(rows, patches)

    def write(self, rows: Sequence[FeatureRow]) -> None:
        """Write one job shard to the disk."""
        first, last = self.rows, self.rows + len(rows)
        if self.spec.grid is None:
            self._write_ragged(rows)
        else:
            self._set_lengths(last, 0)
            for name in self.spec.outputs:
                values = np.stack([row.maps[name].astype(self.spec.dtype, copy=False) for row in rows])
                self.arrays[name][first:last] = values
                self._sync(name, first, last)
        self.arrays["grid_to_pixel"][first:last] = np.stack([row.grid_to_pixel for row in rows])
        self.rows = last
        for name in self._row_layouts():
            self._sync(name, first, last)

    def _write_ragged(self, rows: Sequence[FeatureRow]) -> None:
        first, last = self.rows, self.rows + len(rows)
        grids = np.array([next(iter(row.maps.values())).shape[1:] for row in rows], np.int32)
        counts = grids.astype(np.int64).prod(1)
        end = int(self.patches + counts.sum())
        self._set_lengths(last, end)
        for name in self.spec.outputs:
            flat = [row.maps[name].reshape(self.spec.dim, -1).T for row in rows]
            self.arrays[name][self.patches : end] = np.concatenate(flat).astype(self.spec.dtype)
            self._sync(name, self.patches, end)
        self.arrays["offsets"][first:last] = self.patches + np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.arrays["grid_hw"][first:last] = grids
        shard = self._patches_per_shard()
        self.patches = -(-end // shard) * shard

    def _patches_per_shard(self) -> int:
        assert self.spec.limits.patches is not None, "ragged arrays have a limit of patches"
        return self.spec.limits.patches

    def _layouts(self) -> dict[str, dict[str, Any]]:
        """Return the arguments that each array is created with, at length 0."""
        spec = self.spec
        layouts: dict[str, dict[str, Any]] = {}
        for name in spec.outputs:
            shape: tuple[int, ...]
            if spec.grid is None:
                shape, chunk, shard = (spec.dim,), CHUNK_PATCHES, self._patches_per_shard()
            else:
                shape, chunk, shard = (spec.dim, *spec.grid), 1, spec.limits.rows
            layouts[name] = {
                "shape": (0, *shape),
                "chunks": (chunk, *shape),
                "shards": (shard, *shape),
                "dtype": spec.dtype,
            }
        return layouts | self._row_layouts()

    def _row_layouts(self) -> dict[str, dict[str, Any]]:
        """Return the arguments of the arrays with one small entry for each row."""
        entries: dict[str, tuple[tuple[int, ...], str]] = {"grid_to_pixel": ((2, 3), "float64")}
        if self.spec.grid is None:
            entries |= {"offsets": ((), "int64"), "grid_hw": ((2,), "int32")}
        return {
            name: {"shape": (0, *shape), "chunks": (CHUNK_ROWS, *shape), "dtype": dtype}
            for name, (shape, dtype) in entries.items()
        }

    def _open_array(self, name: str, layout: dict[str, Any]) -> Any:
        if name in self.group:
            return self.group[name]
        # Compression saves a tenth of float16 features at most, and costs more time than writing that tenth.
        return self.group.create_array(name, **layout, compressors=None)

    def _set_lengths(self, rows: int, patches: int) -> None:
        for name, array in self.arrays.items():
            length = patches if name in self.spec.outputs and self.spec.grid is None else rows
            if array.shape[0] != length:
                array.resize((length, *array.shape[1:]))

    def _sync(self, name: str, first: int, last: int) -> None:
        """Flush the files of an array's entries [first, last) to the disk, before the journal commits them."""
        array = self.arrays[name]
        step = (array.shards or array.chunks)[0]
        for index in range(first // step, -(-last // step)):
            file = self.path.joinpath(name, "c", str(index), *["0"] * (array.ndim - 1))
            for path in (file, self.path / name / "zarr.json"):
                if path.exists():
                    sync_file(path)
