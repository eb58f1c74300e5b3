"""File of features that is written in order, chunk by chunk, and survives a kill: what is finished is not repeated."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.files import sync, write_json

Shapes = tuple[tuple[int, ...], ...]
"""Shapes of the arrays of one item."""
LIMIT = float(np.finfo(np.float16).max)


class FeatureFile:
    """Float16 arrays of numbered items in `features.bin`; `index.json` says how many chunks of items are finished."""

    def __init__(self, folder: Path, shapes: Sequence[Shapes], key: str) -> None:
        """Open the file of a folder, or start it; one with another key is started again.

        Args:
            folder: Folder, which is created.
            shapes: Shapes of the arrays of each item.
            key: Digest of everything that determines the features.

        Raises:
            ValueError: The disk has not enough space.
        """
        self.folder, self.shapes, self._key = folder, shapes, key
        sizes = [sum(math.prod(shape) for shape in item) for item in shapes]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        self.finished = self._read_finished()
        """Number of finished chunks."""
        missing = self.bytes_of_all - (self.path.stat().st_size if self.path.exists() else 0)
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise ValueError(
                f"the features of {len(shapes)} images take {missing / 1e9:.1f} GB and the disk of {folder} has "
                f"{free / 1e9:.1f}; use a smaller --size, --views 1, another --features, or --no-freeze"
            )

    @property
    def bytes_of_all(self) -> int:
        """Size of the file when all items are in it."""
        return 2 * int(self._offsets[-1])

    @property
    def path(self) -> Path:
        """File of the arrays."""
        return self.folder / "features.bin"

    def append(self, file: BinaryIO, arrays: Sequence[Tensor]) -> None:
        """Write the arrays of the next item."""
        for array in arrays:
            file.write(array.float().clamp(-LIMIT, LIMIT).half().cpu().contiguous().numpy().tobytes())

    def open_at(self, item: int) -> BinaryIO:
        """Open the file to write from an item on; what lies behind it is dropped."""
        self.path.touch()
        file = open(self.path, "r+b")  # noqa: SIM115
        file.truncate(2 * int(self._offsets[item]))
        file.seek(0, 2)
        return file

    def finish_chunk(self, file: BinaryIO) -> None:
        """Record that one more chunk of items is on the disk."""
        file.flush()
        sync(file.fileno())
        self.finished += 1
        write_json(self.folder / "index.json", {"key": self._key, "chunks": self.finished})

    def read(self, items: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the arrays of items of equal shapes, stacked, float32."""
        values = np.memmap(self.path, np.float16, "r")
        stacked = []
        start = 0
        for shape in self.shapes[items[0]]:
            size = math.prod(shape)
            rows = [values[self._offsets[item] + start :][:size].reshape(shape) for item in items]
            stacked.append(torch.from_numpy(np.stack(rows).astype(np.float32)))
            start += size
        return tuple(stacked)

    def _read_finished(self) -> int:
        try:
            content = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return int(content["chunks"]) if content.get("key") == self._key and self.path.exists() else 0
