"""Samples of endless training data: their order, their seeds, and the batches of every process.

Samples are numbered through the whole run: sample t belongs to epoch t // N and is the image at position t % N of that
epoch's order, where N is the number of images. The order depends only on (seed, epoch), the augmentation only on
(seed, t). So every epoch uses every image once, a batch may span two epochs, and a run can resume from a step number
alone.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_io import ImageError

MAX_SUBSTITUTES = 100
"""Number of consecutive unreadable images after which a sample has no content: the source itself has failed."""

ORDER, AUGMENT, STEP, MIX, FRAME = range(5)
"""Independent streams of random numbers."""


class Pinnable(Protocol):
    """A tuple of tensors that can be copied to page-locked memory."""

    def pin_memory(self) -> Any:
        """Return a copy in page-locked memory."""


Content = TypeVar("Content", bound=Pinnable)


def derive_seed(seed: int, stream: int, *counters: int) -> int:
    """Return a 64-bit seed, statistically independent between streams and counters."""
    return int(np.random.SeedSequence([seed, stream, *counters]).generate_state(1, np.uint64)[0])


def seed_step(seed: int, step: int, micro: int) -> None:
    """Seed torch's global generators for one micro-step: a resumed run repeats drop path without saved state."""
    torch.manual_seed(derive_seed(seed, STEP, step, micro))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (of the CPU), numpy and Python, and restore their states at the end.

    Transforms of torchvision and timm draw from these.
    """
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@dataclass(frozen=True)
class Batch(Generic[Content]):
    """Tensors of B samples, and the images that could not be read."""

    content: Content | None
    """Tensors, such as views, decoded images, or images and labels; None if no readable image was there."""
    unreadable: list[Entry]
    """Images that were skipped, with the reason."""

    def pin_memory(self) -> "Batch[Content]":
        """Return the batch in page-locked memory (called by the data loader)."""
        return Batch(self.content.pin_memory() if self.content else None, self.unreadable)

    def share_memory(self) -> "Batch[Content]":
        """Move the tensors to shared memory, in place; raise `RuntimeError` if there is not enough of it."""
        _share(self.content)
        return self


class EpochOrder:
    """Order of N images in every epoch; it depends on the seed and the epoch alone."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, t: int) -> int:
        """Return the index of the image of sample t."""
        epoch, position = divmod(t, self._count)
        return int(self._order(epoch)[position])

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self._seed, ORDER, epoch)).permutation(self._count)

    def __reduce__(self) -> tuple[type["EpochOrder"], tuple[int, int]]:
        """Pickle without the cache, for spawned workers."""
        return type(self), (self._count, self._seed)


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


def read_or_substitute(
    first: int, count: int, read: Callable[[int], Content], entry: Callable[[int], Entry]
) -> Batch[Content]:
    """Return the content of image `first` of `count`, or of the next one that can be read, and those that can't be.

    Args:
        first: Index of the image.
        count: Number of images.
        read: Reader of an image's content by index; raises `ImageError`.
        entry: Entry of an image by index.
    """
    unreadable: list[Entry] = []
    for offset in range(min(MAX_SUBSTITUTES, count)):
        index = (first + offset) % count
        try:
            return Batch(read(index), unreadable)
        except ImageError as error:
            unreadable.append(entry(index)._replace(reason=error.reason))
    return Batch(None, unreadable)


def collate_unreadable(samples: Sequence[Batch[Content]]) -> list[Entry]:
    """Return the unreadable images of all samples."""
    return [entry for sample in samples for entry in sample.unreadable]


def _share(value: object) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(value, tuple | list):
        for item in value:
            _share(item)
    elif isinstance(value, dict):
        _share([*value.values()])
