"""Batches for fine-tuning: labeled images, augmented, without end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gtsa_kit.data.channels.reader import read_pixels
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.labeled import ClassificationDataset
from gtsa_kit.data.labeled_masks import SegmentationDataset
from gtsa_kit.data.samples import (
    AUGMENT,
    Batch,
    EpochOrder,
    collate_unreadable,
    derive_seed,
    read_or_substitute,
    seeded,
)
from gtsa_kit.data.task_augment import ClassifyAugment, SegmentAugment


class LabeledBatch(NamedTuple):
    """B images of one size with their labels, for training."""

    images: Tensor
    """Images (B, 3, H, W) uint8; of other channels (B, N, H, W) float32, in the units of the file."""
    labels: Tensor
    """Class numbers: (B, H, W) uint8 of pixels, with `VOID`, or (B,) int64 of images."""

    def to(self, device: torch.device) -> "LabeledBatch":
        """Return the batch on a device."""
        return LabeledBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> "LabeledBatch":
        """Return the batch in page-locked memory (called by the data loader)."""
        return LabeledBatch(*(tensor.pin_memory() for tensor in self))


class Examples(Protocol):
    """Protocol of N labeled images. It can be pickled and used in other processes."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, Tensor]:
        """Return pixels of `read_pixels` and labels: (H, W) uint8, or () int64; raise `ImageError`."""

    def entry(self, index: int) -> Entry:
        """Return the entry of an image, for lists of errors."""


@dataclass(frozen=True)
class MaskExamples:
    """Some images of a dataset with masks."""

    data: SegmentationDataset
    indices: Sequence[int]
    """Indices of the images among `data.pairs`."""

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, Tensor]:
        """Return pixels of `read_pixels` and the class numbers (H, W) uint8.

        Raises:
            ImageError: The image or the mask can't be read, or they are no longer of one size.
        """
        pair = self.data.pairs[self.indices[index]]
        pixels = read_pixels(pair.image, self.data.reader)
        try:
            labels = self.data.labels(pair)
        except ImageError as error:
            raise ImageError(pair.image, f"its mask: {error.reason}") from error
        if labels.shape != pixels.shape[:2]:
            (height, width), (h, w) = pixels.shape[:2], labels.shape
            raise ImageError(pair.image, f"its mask is {w} x {h}, the image {width} x {height}")
        return pixels, torch.from_numpy(np.require(labels, requirements=["C", "W"]))

    def entry(self, index: int) -> Entry:
        """Return the entry of an image, for lists of errors."""
        pair = self.data.pairs[self.indices[index]]
        return Entry(pair.name, str(pair.image))


@dataclass(frozen=True)
class ClassExamples:
    """Some images of a dataset with classes."""

    data: ClassificationDataset
    indices: Sequence[int]
    """Indices of the images among `data.paths`."""

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, Tensor]:
        """Return pixels of `read_pixels` and the class number () int64; raise `ImageError`."""
        i = self.indices[index]
        return read_pixels(self.data.paths[i], self.data.reader), torch.tensor(int(self.data.labels[i]))

    def entry(self, index: int) -> Entry:
        """Return the entry of an image, for lists of errors."""
        i = self.indices[index]
        path = str(self.data.paths[i])
        return Entry(self.data.names[i] if self.data.names else path, path)


class TrainingSamples(Dataset[Batch[LabeledBatch]]):
    """Dataset that maps a sample number, without end, to an augmented image with its labels; see `samples`."""

    def __init__(self, examples: Examples, augment: SegmentAugment | ClassifyAugment, seed: int) -> None:
        self.examples, self.augment, self.seed = examples, augment, seed
        self.order = EpochOrder(len(examples), seed)

    def __getitem__(self, t: int) -> Batch[LabeledBatch]:
        """Return sample t as a batch of one; an image that can't be read is replaced by the next one."""

        def read(index: int) -> LabeledBatch:
            pixels, labels = self.examples.read(index)
            image = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
            with seeded(derive_seed(self.seed, AUGMENT, t)):
                if isinstance(self.augment, SegmentAugment):
                    image, labels = self.augment(image, labels)
                else:
                    image = self.augment(image)
            return LabeledBatch(image[None], labels[None])

        return read_or_substitute(self.order(t), len(self.examples), read, self.examples.entry)


def collate_labeled(samples: list[Batch[LabeledBatch]]) -> Batch[LabeledBatch]:
    """Stack training samples into a batch; it has no content if one of the samples has none."""
    contents = [sample.content for sample in samples if sample.content is not None]
    unreadable = collate_unreadable(samples)
    if len(contents) < len(samples):
        return Batch(None, unreadable)
    images, labels = (torch.cat(tensors) for tensors in zip(*contents, strict=True))
    return Batch(LabeledBatch(images, labels), unreadable)
