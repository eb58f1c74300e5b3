"""One machine's way from a listing to rows: threads read and decode ahead, the model takes batches, order is kept."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from gtsa_kit.config import PATCH
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import Entry, Source
from gtsa_kit.embedding.preprocess import Decoder, PreparedImage
from gtsa_kit.embedding.rows import Failure, Row, ShardFill, ShardRule
from gtsa_kit.export import Runner
from gtsa_kit.export.spec import FEATURE_MAP, layer_output
from gtsa_kit.feature_grid import grid_to_pixel

AHEAD = 3
"""Batches decoded ahead of the model, at most."""
GROUPS = 8
"""Batches' worth of images that are sorted into batches by their shape, where shapes vary."""


@dataclass(frozen=True)
class Plan:
    """How to go about it; results depend on nothing else."""

    batch: int
    """Images at the model's base size; where sizes vary, as many as have the same number of cells."""
    workers: int
    rule: ShardRule
    outputs: tuple[str, ...] = ()
    """Maps to keep."""
    dtype: str = "float16"
    """Of the maps that are kept."""


class Engine(Protocol):
    """Results in the order of the entries."""

    def __call__(self, entries: Iterable[tuple[int, Entry]]) -> Iterator[Row | Failure]:
        """From (place, entry)."""


class LocalEngine:
    """Threads of one process: decoders and runtimes let go of Python's lock."""

    def __init__(self, source: Source, runner: Runner, decoder: Decoder, plan: Plan) -> None:
        self.source, self.runner, self.decoder, self.plan = source, runner, decoder, plan

    def __call__(self, entries: Iterable[tuple[int, Entry]]) -> Iterator[Row | Failure]:
        """Results in the order of the entries, a window of them in memory."""
        # One thread each inside torch: the images are what is done side by side.
        with ThreadPoolExecutor(self.plan.workers, "gtsa-decode", torch.set_num_threads, (1,)) as pool:
            loaded = bounded_map(pool, self._load, entries, window=AHEAD * self.plan.batch + self.plan.workers)
            for window in windows(loaded, self.plan, self.decoder.sizes.kind == "fixed"):
                yield from embed_window(window, self.runner, self.plan)

    def _load(self, item: tuple[int, Entry]) -> "Loaded":
        return load(item, self.source, self.decoder)


Loaded = tuple[int, PreparedImage | Failure]


def load(item: tuple[int, Entry], source: Source, decoder: Decoder) -> Loaded:
    """Read and decode one entry."""
    place, entry = item
    try:
        if entry.reason:
            raise ImageError(Path(entry.name), entry.reason)
        return place, decoder(entry.name, source.read(entry.locator))
    except ImageError as error:
        return place, Failure(place, entry.name, error.reason)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__
        return place, Failure(place, entry.name, reason)
    except MemoryError:
        return place, Failure(place, entry.name, "does not fit in memory")


def windows(loaded: Iterable[Loaded], plan: Plan, fixed: bool) -> Iterator[list[Loaded]]:
    """Cut into what is worked on at a time; a window holds whole batches, and never images of two shards.

    That makes a batch depend on the listing alone, and so the last bits of its results: a job that was interrupted
    gives what one that was not gives.
    """
    most = plan.batch if fixed else GROUPS * plan.batch
    window: list[Loaded] = []
    fill, good = ShardFill(plan.rule), 0
    for item in loaded:
        ready = item[1]
        if isinstance(ready, PreparedImage):
            cells = _cells(ready)
            if good == most or not fill.takes(cells):
                yield window
                window, good = [], 0
            fill.add(cells)
            good += 1
        window.append(item)
        if len(window) - good > most and good == 0:  # nothing but broken files: let them go
            yield window
            window = []
    if window:
        yield window


def embed_window(window: Sequence[Loaded], runner: Runner, plan: Plan) -> Iterator[Row | Failure]:
    """Group by shape, embed, and yield in order."""
    ready = {place: item for place, item in window if isinstance(item, PreparedImage)}
    rows: dict[int, Row] = {}
    for batch in batches(ready, plan.batch, runner.preprocessing.size):
        rows |= _embed(batch, ready, runner, plan)
    for place, item in window:
        yield rows[place] if isinstance(item, PreparedImage) else item


def batches(ready: dict[int, PreparedImage], most: int, base: int) -> Iterator[list[int]]:
    """Places of images of one shape; larger ones in smaller batches."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, item in ready.items():
        groups.setdefault(item.size, []).append(place)
    for (height, width), places in groups.items():
        count = max(1, min(most, most * base * base // (height * width)))
        yield from (places[i : i + count] for i in range(0, len(places), count))


def _embed(places: list[int], ready: dict[int, PreparedImage], runner: Runner, plan: Plan) -> dict[int, Row]:
    """A batch, padded where the model takes no fewer."""
    images = np.stack([ready[place].image for place in places])
    allowed = runner.manifest.range_of("batch")
    pieces = []
    for piece in _pieces(images, allowed.max):
        short = allowed.min - len(piece)
        whole = np.concatenate([piece, np.repeat(piece[-1:], short, 0)]) if short > 0 else piece
        pieces.append((runner(whole), len(piece)))
    rows = {}
    found = ((features, i) for features, count in pieces for i in range(count))
    for place, (features, i) in zip(places, found, strict=True):
        item = ready[place]
        maps = {FEATURE_MAP: features.feature_map} | {layer_output(n): m for n, m in features.layers.items()}
        grid = item.size[0] // PATCH, item.size[1] // PATCH
        rows[place] = Row(
            place,
            item.name,
            item.sha256,
            item.width,
            item.height,
            np.array(features.embedding[i]),
            grid_to_pixel(item.width, item.height, grid, item.orientation),
            {name: maps[name][i].astype(plan.dtype) for name in plan.outputs},
        )
    return rows


def _pieces(images: np.ndarray, most: int | None) -> Iterator[np.ndarray]:
    step = most or len(images)
    yield from (images[i : i + step] for i in range(0, len(images), step))


def _cells(ready: PreparedImage) -> int:
    return (ready.size[0] // PATCH) * (ready.size[1] // PATCH)
