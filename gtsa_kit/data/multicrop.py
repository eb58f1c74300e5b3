"""Multi-crop pretraining data: from a list of images to batches of views that don't depend on workers or processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.batched_augment import DecodedBatch, collate_decoded, prepare_for_device
from gtsa_kit.data.decode import decode
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.data.samples import AUGMENT, Batch, EpochOrder, collate_unreadable, derive_seed, read_or_substitute

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
        max_pixels: int = MAX_PIXELS,
        on_device: bool = False,
    ) -> None:
        self.source, self.entries = source, entries
        self.views, self.seed, self.max_pixels, self.on_device = views, seed, max_pixels, on_device
        self.image_index = EpochOrder(len(entries), seed)

    def __getitem__(self, t: int) -> ViewBatch:
        """Return sample t, not yet collated; an image that can't be read is replaced by the next one."""
        make = prepare_for_device if self.on_device else make_views

        def read(index: int) -> Views | DecodedBatch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, AUGMENT, t))
            return make(self._decode(self.entries[index]), self.views, generator)

        return read_or_substitute(self.image_index(t), len(self.entries), read, self.entries.__getitem__)

    def _decode(self, entry: Entry) -> Tensor:
        """Return (3, H, W) uint8 in channels-last memory layout."""
        pixels, _ = decode(read_entry(self.source, entry), entry.name, self.max_pixels)
        return torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)


def collate_views(samples: list[ViewBatch]) -> ViewBatch:
    """Stack samples into a batch; it has no content if one of the samples has none."""
    views = [sample.content for sample in samples if isinstance(sample.content, Views)]
    decoded = [sample.content for sample in samples if isinstance(sample.content, DecodedBatch)]
    unreadable = collate_unreadable(samples)
    if len(decoded) == len(samples):
        return Batch(collate_decoded(decoded), unreadable)
    return Batch(collate(views) if len(views) == len(samples) else None, unreadable)
