"""Multi-crop pretraining data: from a list of images to batches of views that don't depend on workers or processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.batched_augment import DecodedBatch, collate_decoded, prepare_for_device
from gtsa_kit.data.channels.reader import CENTER, ImageReader, Position
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.samples import AUGMENT, FRAME, Batch, EpochOrder, collate_unreadable, derive_seed, read_or_substitute
from gtsa_kit.data.sources import open_entry

MAX_POSITIONS = 16
"""Random windows of a scene that are tried for one with enough data."""
ViewBatch = Batch[Views | DecodedBatch]
"""Views of B images, or decoded images to make them from."""


class MultiCropDataset(Dataset[ViewBatch]):
    """Dataset that maps a sample number to the views of one image, or to the decoded image for the device."""

    def __init__(
        self,
        source: Source,
        entries: Sequence[Entry],
        views: ViewsConfig,
        seed: int,
        reader: ImageReader | None = None,
        on_device: bool = False,
    ) -> None:
        self.source, self.entries, self.reader = source, entries, reader or ImageReader()
        self.views, self.seed, self.on_device = views, seed, on_device
        self.image_index = EpochOrder(len(entries), seed)

    def __getitem__(self, t: int) -> ViewBatch:
        """Return sample t, not yet collated; an image that can't be read is replaced by the next one."""

        def read(index: int) -> Views | DecodedBatch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, AUGMENT, t))
            image = self._decode(self.entries[index], t)
            if self.on_device:
                return prepare_for_device(image, self.views, generator)
            return make_views(image, self.views, generator, self.reader.channels)

        return read_or_substitute(self.image_index(t), len(self.entries), read, self.entries.__getitem__)

    def _positions(self, t: int) -> list[Position]:
        """Return the random positions of the window of sample t: the first one with enough data is read."""
        if self.reader.reads_whole:
            return [CENTER]
        numbers = np.random.default_rng(derive_seed(self.seed, FRAME, t, 0)).random((MAX_POSITIONS, 2))
        return [(y, x) for y, x in numbers.tolist()]

    def _decode(self, entry: Entry, t: int) -> Tensor:
        """Return (3, H, W) uint8 or (N, H, W) float32 in channels-last memory layout; of a file of frames, one."""
        with open_entry(self.source, entry, self.reader.reads_whole) as content:
            frames = self.reader.frames(content, entry.name)
            frame = derive_seed(self.seed, FRAME, t) % frames if frames > 1 else 0
            pixels = self.reader.samples(content, entry.name, frame, self._positions(t))
        return torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)


def collate_views(samples: list[ViewBatch]) -> ViewBatch:
    """Stack samples into a batch; it has no content if one of the samples has none."""
    views = [sample.content for sample in samples if isinstance(sample.content, Views)]
    decoded = [sample.content for sample in samples if isinstance(sample.content, DecodedBatch)]
    unreadable = collate_unreadable(samples)
    if len(decoded) == len(samples):
        return Batch(collate_decoded(decoded), unreadable)
    return Batch(collate(views) if len(views) == len(samples) else None, unreadable)
