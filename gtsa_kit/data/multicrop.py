"""From a list of images to batches of views, the same whatever the workers, processes and interruptions.

Presentations are numbered through the whole run: number t belongs to epoch t // N and shows the image at place
t % N of that epoch's order. The order depends on (seed, epoch) alone and the views on (seed, t) alone. So every epoch
shows every image once, batches may straddle epochs, and a run can go on from any step with nothing but its number.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.batched_augment import DecodedBatch, collate_decoded, prepare_for_device
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, read_file
from gtsa_kit.hardware import available_cores

SUBSTITUTES = 100
"""Broken images in a row after which it is not the images that are at fault."""

_ORDER, _VIEWS, _STEP = range(3)  # streams of random numbers that never meet


def derive_seed(seed: int, stream: int, *counters: int) -> int:
    """A 64-bit seed for one purpose and one moment; statistically independent of all others."""
    return int(np.random.SeedSequence([seed, stream, *counters]).generate_state(1, np.uint64)[0])


def seed_step(seed: int, step: int, micro: int) -> None:
    """Set torch's own generators for one (micro-)step, so that drop path can be repeated without saved state."""
    torch.manual_seed(derive_seed(seed, _STEP, step, micro))


@dataclass(frozen=True)
class Batch:
    """Views of B images, or what the device is to make them of, and the files found broken on the way."""

    views: Views | DecodedBatch | None
    """None when no readable image could be found."""
    broken: list[ImageError]

    def pin_memory(self) -> "Batch":
        """Called by the data loader."""
        return Batch(self.views.pin_memory() if self.views else None, self.broken)


class MultiCropDataset(Dataset[Batch]):
    """Presentation number t to its views, or with `on_device` to the image: a Batch of one, not yet stacked."""

    def __init__(
        self,
        paths: Sequence[Path],
        views: ViewsConfig,
        seed: int,
        max_pixels: int = MAX_PIXELS,
        on_device: bool = False,
    ) -> None:
        self.paths, self.views, self.seed, self.max_pixels, self.on_device = paths, views, seed, max_pixels, on_device
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, _ORDER, epoch)).permutation(len(self.paths))

    def image(self, t: int) -> int:
        """Index into `paths` of presentation t."""
        epoch, place = divmod(t, len(self.paths))
        return int(self._order(epoch)[place])

    def _pixels(self, path: Path) -> Tensor:
        """(3, H, W) uint8, with the colors of a pixel side by side."""
        pixels, _ = decode(read_file(path), str(path), self.max_pixels)
        return torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)

    def __getitem__(self, t: int) -> Batch:
        """The views of presentation t. An image that has broken since the run began gives way to its successor."""
        broken: list[ImageError] = []
        first = self.image(t)
        for offset in range(min(SUBSTITUTES, len(self.paths))):
            try:
                image = self._pixels(self.paths[(first + offset) % len(self.paths)])
            except ImageError as error:
                broken.append(error)
                continue
            generator = torch.Generator().manual_seed(derive_seed(self.seed, _VIEWS, t))
            make = prepare_for_device if self.on_device else make_views
            return Batch(make(image, self.views, generator), broken)
        return Batch(None, broken)

    def __getstate__(self) -> dict[str, object]:
        """Without the cache, which does not travel to spawned workers."""
        return {k: v for k, v in self.__dict__.items() if k != "_order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._shuffle)


@dataclass(frozen=True)
class DistributedBatchSampler:
    """Which presentations one process takes: at every micro-step, a contiguous block of the step's."""

    batch: int
    accumulate: int
    rank: int
    world: int
    start: int
    stop: int
    """Steps, [start, stop)."""

    def __iter__(self) -> Iterator[list[int]]:
        """Numbers t, a list for each micro-step."""
        for micro in range(self.start * self.accumulate, self.stop * self.accumulate):
            first = (micro * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate


def make_batches(
    presentations: MultiCropDataset, share: DistributedBatchSampler, workers: int, pin: bool
) -> Iterator[Batch]:
    """Micro-batches of a process in order."""
    loader = DataLoader(
        presentations,
        batch_sampler=share,
        num_workers=workers,
        collate_fn=stack,
        pin_memory=pin,
        worker_init_fn=_quiet_worker,
        prefetch_factor=2 if workers else None,
    )
    return iter(loader)


def resolve_workers(workers: int | Literal["auto"], device: str, processes: int | Literal["auto"]) -> int:
    """Processes that make views, for each training process; `auto` leaves that one a core.

    On the CPU the model needs the cores: one is enough to prepare the next batch meanwhile.
    """
    if workers != "auto":
        return workers
    if device.startswith("cpu"):
        return 1
    each = available_cores() // (torch.cuda.device_count() if processes == "auto" else processes)
    return max(1, min(16, each - 1))


class TimedBatches:
    """Views batch by batch; keeps count of the time spent waiting for them and of the broken files met on the way."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.waited = 0.0
        self.broken: list[ImageError] = []

    def __next__(self) -> Views | DecodedBatch | None:
        """The next batch's views; None when no image can be read any more."""
        begin = time.monotonic()
        batch = next(self._batches)
        self.waited += time.monotonic() - begin
        self.broken += batch.broken
        return batch.views


def stack(samples: list[Batch]) -> Batch:
    """Samples to a batch; without views if one of them has none."""
    views = [sample.views for sample in samples if isinstance(sample.views, Views)]
    images = [sample.views for sample in samples if isinstance(sample.views, DecodedBatch)]
    broken = [error for sample in samples for error in sample.broken]
    if len(images) == len(samples):
        return Batch(collate_decoded(images), broken)
    return Batch(collate(views) if len(views) == len(samples) else None, broken)


def _quiet_worker(_: int) -> None:
    # Ctrl-C goes to every process of the group; only the main one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
