"""Reader of a dataset folder, one row at a time."""

import json
import operator
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import pyarrow.parquet as pq

from gtsa_kit.embedding.folder import DENSE, ERRORS, VECTORS, vector_parts
from gtsa_kit.embedding.rows import FeatureRow
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, parse_manifest
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP


class EmbeddingDataset:
    """Sequence of the rows of a dataset folder, each read when it is indexed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        self.parts = vector_parts(folder)
        if not self.parts:
            raise ValueError(f"{folder} holds no vectors; make them with gtsa embed")
        self.schema = pq.read_schema(self.parts[0])
        self._ends = list(accumulate(pq.read_metadata(part).num_rows for part in self.parts))
        self._cached_part: tuple[int, Any] = (-1, None)
        self.maps = self._open_maps()

    @property
    def manifest(self) -> Manifest:
        """Manifest of the model that made the rows."""
        return parse_manifest(self.schema.metadata[METADATA_KEY.encode()].decode(), str(self.folder))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the feature maps in the folder."""
        names = sorted(name for name in self.maps if name.startswith(FEATURE_MAP)) if self.maps else ()
        return tuple(names)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[FeatureRow]:
        return (self._row(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: SupportsIndex) -> FeatureRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[FeatureRow]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> FeatureRow | list[FeatureRow]:
        """Return one row, or a list of the rows of a slice; a negative index counts from the end.

        A row's embedding and its maps (D, h, w), if there are any, have their stored type.

        Raises:
            IndexError: There is no such row.
        """
        if isinstance(index, slice):
            return [self._row(one) for one in range(*index.indices(len(self)))]
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return self._row(number % len(self))

    def _row(self, index: int) -> FeatureRow:
        part = bisect_right(self._ends, index)
        if self._cached_part[0] != part:
            self._cached_part = part, pq.read_table(self.parts[part])
        table, offset = self._cached_part[1], index - (self._ends[part - 1] if part else 0)
        row = {name: table[name][offset] for name in table.schema.names}
        path, digest, stamp = (row[name].as_py() for name in ("path", "sha256", "stamp"))
        embedding = row[EMBEDDING].values.to_numpy(zero_copy_only=False)
        class_token = row[CLASS_TOKEN].values.to_numpy(zero_copy_only=False) if CLASS_TOKEN in row else None
        matrix = self.maps["grid_to_pixel"][index] if self.maps else np.full((2, 3), np.nan)
        width, height = row["width"].as_py(), row["height"].as_py()
        return FeatureRow(path, digest, stamp, width, height, embedding, matrix, self._maps_of(index), class_token)

    def vectors(self) -> tuple[list[str], np.ndarray]:
        """Return all paths, and all embeddings (N, D) in their stored type; both are held in memory."""
        table = pq.read_table(self.folder / VECTORS, columns=["path", "embedding"])
        column = table["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
        return table["path"].to_pylist(), values

    def errors(self) -> Iterator[dict[str, str]]:
        """Yield `path` and `reason` of each image that could not be used."""
        with open(self.folder / ERRORS, encoding="utf-8") as file:
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
        return {name: patches.T.reshape(-1, h, w) for name, patches in flat.items()}


def read_dataset(folder: str | Path) -> EmbeddingDataset:
    """Open a dataset folder that `gtsa embed` wrote.

    Raises:
        ValueError: The folder holds no vectors.
    """
    return EmbeddingDataset(folder)
