"""Multi-crop pretraining data: from a list of images to batches of views that don't depend on workers or processes.

Samples are numbered through the whole run: sample t belongs to epoch t // N and is the image at position t % N of that
epoch's order, where N is the number of images. The order depends only on (seed, epoch), the views only on (seed, t). So
every epoch uses every image once, a batch may span two epochs, and a run can resume from a step number alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.batched_augment import DecodedBatch, collate_decoded, prepare_for_device
from gtsa_kit.data.decode import decode
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError

MAX_SUBSTITUTES = 100
"""Number of consecutive unreadable images after which a sample has no views: the source itself has failed."""

_ORDER, _VIEWS, _STEP = range(3)  # independent streams of random numbers


def derive_seed(seed: int, stream: int, *counters: int) -> int:
    """Return a 64-bit seed, statistically independent between streams and counters."""
    return int(np.random.SeedSequence([seed, stream, *counters]).generate_state(1, np.uint64)[0])


def seed_step(seed: int, step: int, micro: int) -> None:
    """Seed torch's global generators for one micro-step: a resumed run repeats drop path without saved state."""
    torch.manual_seed(derive_seed(seed, _STEP, step, micro))


@dataclass(frozen=True)
class Batch:
    """Views of B images, or decoded images to make them from, and the images that could not be read."""

    views: Views | DecodedBatch | None
    """Views or decoded images; None if no readable image was found."""
    unreadable: list[Entry]
    """Images that were skipped, with the reason."""

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory (called by the data loader)."""
        return Batch(self.views.pin_memory() if self.views else None, self.unreadable)

    def share_memory(self) -> "Batch":
        """Move the tensors to shared memory, in place; raise `RuntimeError` if there is not enough of it."""
        _share(self.views)
        return self


class MultiCropDataset(Dataset[Batch]):
    """Dataset that maps a sample number to the views of one image, or to the decoded image for the device."""

    def __init__(
        self,
        source: Source,
        entries: Sequence[Entry],
        views: ViewsConfig,
        seed: int,
        max_pixels: int = MAX_PIXELS,
        on_device: bool = False,
    ) -> None:
        self.source, self.entries = source, entries
        self.views, self.seed, self.max_pixels, self.on_device = views, seed, max_pixels, on_device
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def image_index(self, t: int) -> int:
        """Return the index into `entries` of sample t."""
        epoch, position = divmod(t, len(self.entries))
        return int(self._order(epoch)[position])

    def __getitem__(self, t: int) -> Batch:
        """Return sample t, not yet collated; an image that can't be read is replaced by the next one."""
        unreadable: list[Entry] = []
        first = self.image_index(t)
        for offset in range(min(MAX_SUBSTITUTES, len(self.entries))):
            entry = self.entries[(first + offset) % len(self.entries)]
            try:
                image = self._decode(entry)
            except ImageError as error:
                unreadable.append(entry._replace(reason=error.reason))
                continue
            generator = torch.Generator().manual_seed(derive_seed(self.seed, _VIEWS, t))
            make = prepare_for_device if self.on_device else make_views
            return Batch(make(image, self.views, generator), unreadable)
        return Batch(None, unreadable)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, _ORDER, epoch)).permutation(len(self.entries))

    def _decode(self, entry: Entry) -> Tensor:
        """Return (3, H, W) uint8 in channels-last memory layout."""
        pixels, _ = decode(read_entry(self.source, entry), entry.name, self.max_pixels)
        return torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)

    def __getstate__(self) -> dict[str, object]:
        """Drop the cache, which can't be pickled for spawned workers."""
        return {k: v for k, v in self.__dict__.items() if k != "_order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._shuffle)


@dataclass(frozen=True)
class DistributedBatchSampler:
    """Sampler of one process: at every micro-step, a contiguous block of the step's sample numbers."""

    batch_size: int
    """Images per micro-batch of one process."""
    accumulate: int
    """Micro-steps per optimizer step."""
    rank: int
    world_size: int
    start_step: int
    stop_step: int
    """Step at which sampling stops (exclusive)."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the sample numbers of each micro-step."""
        for micro in range(self.start_step * self.accumulate, self.stop_step * self.accumulate):
            first = (micro * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return (self.stop_step - self.start_step) * self.accumulate


def collate_batches(samples: list[Batch]) -> Batch:
    """Stack samples into a batch; it has no views if one of the samples has none."""
    views = [sample.views for sample in samples if isinstance(sample.views, Views)]
    decoded = [sample.views for sample in samples if isinstance(sample.views, DecodedBatch)]
    unreadable = [entry for sample in samples for entry in sample.unreadable]
    if len(decoded) == len(samples):
        return Batch(collate_decoded(decoded), unreadable)
    return Batch(collate(views) if len(views) == len(samples) else None, unreadable)


def _share(value: object) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(value, tuple):
        for item in value:
            _share(item)
