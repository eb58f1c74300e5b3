"""Reading a dataset folder back, a row at a time."""

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gtsa_kit.embedding.rows import Row
from gtsa_kit.embedding.store import DENSE, METADATA_KEY, VECTORS
from gtsa_kit.export.manifest import Manifest, parse_manifest
from gtsa_kit.export.spec import FEATURE_MAP


class Dataset:
    """Rows in their order; what is not asked for is not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = sorted((folder / VECTORS).glob("part-*.parquet"))
        if not self.parts:
            raise ValueError(f"{folder} holds no vectors; make them with gtsa embed")
        self.schema = pq.read_schema(self.parts[0])
        self._ends = list(accumulate(pq.read_metadata(part).num_rows for part in self.parts))
        self._held: tuple[int, Any] = (-1, None)
        self.maps = self._open_maps()

    @property
    def manifest(self) -> Manifest:
        """Of the model."""
        return parse_manifest(self.schema.metadata[METADATA_KEY.encode()].decode(), str(self.folder))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the maps that are there."""
        names = sorted(name for name in self.maps if name.startswith(FEATURE_MAP)) if self.maps else ()
        return tuple(names)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Row:
        """One row; its maps (D, h, w), if there are any, in the type that they are stored in."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = bisect_right(self._ends, index)
        if self._held[0] != part:
            self._held = part, pq.read_table(self.parts[part])
        table, at = self._held[1], index - (self._ends[part - 1] if part else 0)
        row = {name: table[name][at] for name in table.schema.names}
        digest = row["sha256"].as_py() if "sha256" in row else ""
        embedding = row["embedding"].values.to_numpy(zero_copy_only=False)
        matrix = self.maps["grid_to_pixel"][index] if self.maps else np.full((2, 3), np.nan)
        width, height = row["width"].as_py(), row["height"].as_py()
        return Row(index, row["path"].as_py(), digest, width, height, embedding, matrix, self._maps_of(index))

    def vectors(self) -> tuple[list[str], np.ndarray]:
        """All paths, and (N, D) embeddings as they are stored: everything in memory."""
        table = pq.read_table(self.folder / VECTORS, columns=["path", "embedding"])
        column = table["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
        return table["path"].to_pylist(), values

    def errors(self) -> Iterator[dict[str, str]]:
        """`path` and `reason` of what could not be used."""
        with open(self.folder / "errors.jsonl", encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)

    def _open_maps(self) -> Any:
        if not (self.folder / DENSE).exists():
            return None
        import zarr

        return dict(zarr.open_group(self.folder / DENSE, mode="r").arrays())

    def _maps_of(self, index: int) -> dict[str, np.ndarray]:
        if self.maps is None:
            return {}
        if "offsets" not in self.maps:
            return {name: self.maps[name][index] for name in self.outputs}
        start, (h, w) = int(self.maps["offsets"][index]), (int(n) for n in self.maps["grid_hw"][index])
        flat = {name: self.maps[name][start : start + h * w] for name in self.outputs}
        return {name: cells.T.reshape(-1, h, w) for name, cells in flat.items()}


def read_dataset(folder: str | Path) -> Dataset:
    """Open what `gtsa embed` wrote.

    Raises:
        ValueError: There is no such thing.
    """
    return Dataset(Path(folder))
