"""Training samples of images with objects, augmented, without end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from gtsa_kit.data.channels.reader import read_pixels
from gtsa_kit.data.detect_augment import DetectAugment, DetectBatch
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.instances import InstanceDataset, Instances
from gtsa_kit.data.samples import AUGMENT, Batch, EpochOrder, derive_seed, read_or_substitute, seeded


@dataclass(frozen=True)
class ObjectExamples:
    """Some images of a dataset with objects. They can be pickled and used in other processes."""

    data: InstanceDataset
    indices: Sequence[int]
    """Indices of the images among `data.images`."""

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, Instances]:
        """Return pixels of `read_pixels` and the objects.

        Raises:
            ImageError: The image can't be read, or no longer has the size that its header had.
        """
        image = self.data.images[self.indices[index]]
        pixels = read_pixels(image.path, self.data.reader)
        if pixels.shape[:2] != (image.height, image.width):
            height, width = pixels.shape[:2]
            raise ImageError(image.path, f"it is {width} x {height}, its labels are for {image.width} x {image.height}")
        return pixels, self.data.instances(self.indices[index])

    def entry(self, index: int) -> Entry:
        """Return the entry of an image, for lists of errors."""
        image = self.data.images[self.indices[index]]
        return Entry(image.name, str(image.path))


class ObjectSamples(Dataset[Batch[DetectBatch]]):
    """Dataset that maps a sample number, without end, to an augmented image with its objects; see `samples`."""

    def __init__(self, examples: ObjectExamples, augment: DetectAugment, seed: int) -> None:
        self.examples, self.augment, self.seed = examples, augment, seed
        self.order = EpochOrder(len(examples), seed)

    def __getitem__(self, t: int) -> Batch[DetectBatch]:
        """Return sample t as a batch of one; an image that can't be read is replaced by the next one."""

        def read(index: int) -> DetectBatch:
            pixels, objects = self.examples.read(index)
            image = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
            with seeded(derive_seed(self.seed, AUGMENT, t)):
                return self.augment(image, objects)

        return read_or_substitute(self.order(t), len(self.examples), read, self.examples.entry)
