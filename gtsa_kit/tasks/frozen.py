"""Features of a frozen encoder: computed once an image and version, kept on disk, and read in batches."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.samples import ORDER, derive_seed
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import image_size
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.weights import weights_digest
from gtsa_kit.tasks.feature_file import FeatureFile, Shapes
from gtsa_kit.tasks.inputs import input_policy
from gtsa_kit.tasks.object_data import ObjectData
from gtsa_kit.tasks.object_targets import object_targets
from gtsa_kit.tasks.task_data import TaskData, open_labeled
from gtsa_kit.tasks.views import apply_to_image, apply_to_labels, make_view

CHUNK = 8
"""Images in a batch of the encoder at most; after each batch the features are on the disk."""
LOSS_SCALE = 4
"""Resolution of the labels in the loss, as a multiple of the patches'; scores are measured on all pixels."""


class Item(NamedTuple):
    """Version of an image."""

    image: int
    """Number of the image."""
    view: int
    """Number of the version."""


class FeatureBatch(NamedTuple):
    """Inputs of the head, and labels."""

    inputs: tuple[Tensor, ...]
    """Maps (B, D, h, w), or (B, D) embeddings."""
    labels: Any
    """Class numbers: (B, LOSS_SCALE * h, LOSS_SCALE * w) uint8 of pixels, or (B,) int64 of images; or the targets of
    `DetectorHead.losses` of each image."""
    sizes: list[tuple[int, int]]
    """Height and width of the inputs in pixels, for targets; empty for class numbers."""


@dataclass
class FrozenFeatures:
    """Features of items, complete or to be computed."""

    model: TaskModel
    data: TaskData
    items: list[Item]
    seed: int
    file: FeatureFile
    chunks: list[list[int]]
    """Items of each batch of the encoder; all of one have one input size."""
    seconds_per_item: float = 0.0
    """Seconds for each item that was computed, with the reading of its image; 0 before."""

    def compute(
        self,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_progress: Callable[[int, int, float], None] = lambda *_: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Compute what is missing; return False if `should_stop` ended it.

        Args:
            autocast: Precision of the encoder.
            on_progress: Called with the finished items, all items, and the seconds of the encoder for each so far.
            should_stop: Asked after each batch.

        Raises:
            ImageError: An image can't be read.
        """
        first = self.file.finished
        if first == len(self.chunks):
            return True
        encoded, seconds, start = 0, 0.0, time.monotonic()
        device = next(self.model.parameters()).device
        self.model.eval()
        with (
            ThreadPoolExecutor(available_cores()) as pool,
            self.file.open_at(self.chunks[first][0]) as file,
            torch.no_grad(),
        ):
            loaded = bounded_map(pool, self._pixels, self.chunks[first:], window=2)
            for chunk, pixels in zip(self.chunks[first:], loaded, strict=True):
                begin = time.monotonic()
                with autocast():
                    features = self.model.features(pixels.to(device))
                for row in range(len(chunk)):
                    self.file.append(file, [array[row] for array in features])
                self.file.finish_chunk(file)
                encoded, seconds = encoded + len(chunk), seconds + time.monotonic() - begin
                self.seconds_per_item = (time.monotonic() - start) / encoded
                on_progress(chunk[-1] + 1, len(self.items), seconds / encoded)
                if should_stop() and chunk is not self.chunks[-1]:
                    return False
        return True

    def read(self, numbers: Sequence[int]) -> FeatureBatch:
        """Return features and labels of items of one input size."""
        labels = [self._label(number) for number in numbers]
        sizes = [self.input_size(number) for number in numbers] if self.data.task == "detect" else []
        return FeatureBatch(self.file.read(numbers), labels if sizes else torch.stack(labels), sizes)

    def _pixels(self, chunk: list[int]) -> Tensor:
        """Return the normalized input (B, N, h, w) of items."""
        policy, preprocess = input_policy(self.model.spec, self.model.encoder), self.model.encoder.preprocessing
        inputs = []
        for number in chunk:
            item = self.items[number]
            image = open_labeled(self.data, item.image)
            size = policy(*image_size(image))
            image = policy.cut(image, preprocess.interpolation)
            inputs.append(preprocess(apply_to_image(make_view(item.view, self.seed, item.image), image), size))
        return torch.from_numpy(np.stack(inputs))

    def input_size(self, number: int) -> tuple[int, int]:
        """Return the (height, width) in pixels of the input of an item with maps."""
        patch = self.model.encoder.architecture.patch
        rows, columns = self.file.shapes[number][0][-2:]
        return patch * rows, patch * columns

    def _label(self, number: int) -> Any:
        item = self.items[number]
        if isinstance(self.data, ObjectData):
            view, objects = make_view(item.view, self.seed, item.image), self.data.prepared.data.instances(item.image)
            return object_targets(view, objects, *self.data.size(item.image), self.input_size(number))
        if self.data.task == "classify":
            return torch.from_numpy(self.data.label(item.image))
        return self._cached_label(number)

    @property
    def _cached_label(self) -> Callable[[int], Tensor]:
        """Labels of pixels at the resolution of the loss; a few kilobytes an item, kept after the first use."""
        if not hasattr(self, "_labels"):
            self._labels = lru_cache(maxsize=None)(self._small_label)
        return self._labels

    def _small_label(self, number: int) -> Tensor:
        item = self.items[number]
        grid = self.file.shapes[number][0][-2:]
        size = LOSS_SCALE * grid[0], LOSS_SCALE * grid[1]
        view = make_view(item.view, self.seed, item.image)
        return torch.from_numpy(np.ascontiguousarray(apply_to_labels(view, self.data.label(item.image), size)))


def open_features(
    model: TaskModel, data: TaskData, indices: Sequence[int], views: int, seed: int, precision: str, root: Path
) -> FrozenFeatures:
    """Open the features of images in a folder of their own below `root`.

    Args:
        model: Model whose encoder computes them.
        data: Labeled images.
        indices: Numbers of the images.
        views: Number of versions of each image.
        seed: Seed of the crops.
        precision: Precision of the encoder, fp32 or bf16.
        root: Folder of features; the name of the folder in it is a digest of everything that determines them.

    Raises:
        ValueError: The disk has not enough space.
    """
    policy, patch = input_policy(model.spec, model.encoder), model.encoder.architecture.patch
    sizes = {index: policy(*data.size(index)) for index in indices} if data.task != "classify" else {}
    items = [Item(index, view) for view in range(views) for index in indices]
    shapes = [_shapes(model, sizes.get(item.image, policy.size), patch) for item in items]
    chunks = [
        list(same[start : start + CHUNK])
        for _, group in groupby(range(len(items)), key=lambda number: shapes[number])
        for same in [list(group)]
        for start in range(0, len(same), CHUNK)
    ]
    stamps = [
        [data.name(i), *((file.stat().st_size, file.stat().st_mtime_ns) for file in data.files(i)[:1])] for i in indices
    ]
    facts: dict[str, object] = {"weights": weights_digest(dict(model.encoder.vit.state_dict())), "images": stamps}
    facts |= {"views": views, "seed": seed if views > 2 else None, "precision": precision, "chunk": CHUNK}
    facts |= {"task": data.task, "layers": model.spec.layers, "final_norm": model.spec.final_norm}
    facts |= {"policy": asdict(policy), **EncoderSpec.of(model.encoder).to_dict()}
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return FrozenFeatures(model, data, items, seed, FeatureFile(root / key[:16], shapes, key), chunks)


def _shapes(model: TaskModel, size: tuple[int, int], patch: int) -> Shapes:
    """Return the shapes of the head's inputs for an input (height, width)."""
    width = model.encoder.architecture.width
    if model.spec.task == "classify":
        return ((width,),)
    return tuple((width, size[0] // patch, size[1] // patch) for _ in model.spec.layers or (0,))


class FrozenBatches:
    """Micro-batches of one process, from a step on. Every epoch uses every item once, in an order of its own.

    Images of a batch have one input size. The last batch of a size is filled up with items of that size.
    """

    def __init__(
        self, features: FrozenFeatures, batch: int, seed: int, rank: int, world: int, first_micro: int
    ) -> None:
        self.features, self.waited = features, 0.0
        self.unreadable: list[Entry] = []
        self.should_stop: Callable[[], bool] = lambda: False
        self._batch, self._seed, self._rank, self._world, self._micro = batch, seed, rank, world, first_micro
        by_shape: dict[Shapes, list[int]] = {}
        for number, shapes in enumerate(features.file.shapes):
            by_shape.setdefault(shapes, []).append(number)
        self._groups = list(by_shape.values())
        self._per_epoch = sum(-(-len(group) // batch) for group in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._batches_of)

    def __next__(self) -> FeatureBatch:
        """Return the next micro-batch."""
        begin = time.monotonic()
        epoch, position = divmod(self._micro * self._world + self._rank, self._per_epoch)
        self._micro += 1
        result = self.features.read(self._epoch(epoch)[position])
        self.waited += time.monotonic() - begin
        return result

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def _batches_of(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng(derive_seed(self._seed, ORDER, epoch))
        batches = []
        for group in self._groups:
            order = rng.permutation(group).tolist()
            order += order[: -len(order) % self._batch]
            batches += [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        return [batches[i] for i in rng.permutation(len(batches))]
