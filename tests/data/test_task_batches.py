"""Batches for fine-tuning: independence of workers and of a restart, and faults of files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation_data import write_color_classes, write_masked_image
from PIL import Image

from gtsa_kit.data.batches import make_batches
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.labeled_masks import SegmentationDataset, read_segmentation_dataset
from gtsa_kit.data.samples import Batch, DistributedBatchSampler
from gtsa_kit.data.task_augment import ClassifyAugment, SegmentAugment
from gtsa_kit.data.task_batches import (
    ClassExamples,
    LabeledBatch,
    MaskExamples,
    TrainingSamples,
    collate_labeled,
)

SIZES = [(64, 96), (64, 96), (96, 64), (64, 96), (48, 80)]


@pytest.fixture
def masked(tmp_path: Path) -> SegmentationDataset:
    """Five images with masks, of three sizes."""
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        write_masked_image(tmp_path, f"{number}", rng, size)
    return read_segmentation_dataset(tmp_path)


def examples(data: SegmentationDataset) -> MaskExamples:
    return MaskExamples(data, range(len(data.pairs)))


def batches(samples: TrainingSamples, workers: int, start: int = 0, stop: int = 5) -> list[Batch[LabeledBatch]]:
    sampler = DistributedBatchSampler(2, 1, 0, 1, start, stop)
    return list(make_batches(samples, sampler, workers, pin=False, collate=collate_labeled))


def same(a: Batch[LabeledBatch], b: Batch[LabeledBatch]) -> bool:
    return a.unreadable == b.unreadable and all(map(torch.equal, a.content, b.content))


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_batches_depend_neither_on_workers_nor_on_a_restart(
    task: str, masked: SegmentationDataset, tmp_path: Path
) -> None:
    if task == "segment":
        samples = TrainingSamples(examples(masked), SegmentAugment((32, 48)), seed=1)
        shape, dtype, other = (2, 32, 48), torch.uint8, TrainingSamples(examples(masked), SegmentAugment((32, 48)), 2)
    else:
        data = read_classification_dataset(write_color_classes(tmp_path / "classes"))
        chosen = ClassExamples(data, range(1, len(data.paths), 4))
        samples = TrainingSamples(chosen, ClassifyAugment((32, 48)), seed=1)
        shape, dtype, other = (2,), torch.int64, TrainingSamples(chosen, ClassifyAugment((32, 48)), 2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert samples[0].content is not None
    assert torch.equal(state, torch.get_rng_state())
    alone = batches(samples, 0)
    for batch in alone:
        assert batch.content.images.shape == (2, 3, 32, 48)
        assert batch.content.images.dtype == torch.uint8
        assert (batch.content.labels.shape, batch.content.labels.dtype) == (shape, dtype)
    assert all(map(same, alone, batches(samples, 2)))
    assert all(map(same, alone[3:], batches(pickle.loads(pickle.dumps(samples)), 1, start=3)))
    assert not any(map(same, alone, batches(other, 0)))
    epoch = [samples.order(t) for t in range(len(samples.examples))]
    assert sorted(epoch) == list(range(len(samples.examples)))


def test_labels_are_those_of_the_chosen_images(masked: SegmentationDataset, tmp_path: Path) -> None:
    data = read_classification_dataset(write_color_classes(tmp_path / "classes"))
    chosen = ClassExamples(data, [30, 2, 17])
    for index, i in enumerate((30, 2, 17)):
        pixels, label = chosen.read(index)
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(data.paths[i])))
        assert data.paths[i].parent.name == data.classes[int(label)]
        assert chosen.entry(index).name == data.names[i]
    part = MaskExamples(masked, [3, 1])
    pixels, labels = part.read(0)
    np.testing.assert_array_equal(labels.numpy(), np.asarray(Image.open(masked.pairs[3].mask)))


def test_a_pair_that_can_not_be_read_is_replaced_and_listed(masked: SegmentationDataset) -> None:
    masked.pairs[1].mask.write_bytes(b"\x89PNG nothing")
    masked.pairs[2].image.unlink()
    Image.new("L", (10, 10)).save(masked.pairs[4].mask)
    samples = TrainingSamples(examples(masked), SegmentAugment((32, 32)), seed=0)
    for workers in (0, 1):
        loaded = batches(samples, workers, stop=3)
        assert all(batch.content.images.shape == (2, 3, 32, 32) for batch in loaded)
        reasons = {entry.name: entry.reason for batch in loaded for entry in batch.unreadable}
        assert reasons == {
            "1.png": "its mask: not an image, or damaged beyond recognition",
            "2.png": "no such file or directory",
            "4.png": "its mask is 10 x 10, the image 80 x 48",
        }
    for pair in masked.pairs:
        pair.image.unlink(missing_ok=True)
    [batch] = batches(samples, 0, stop=1)
    assert batch.content is None
    assert len(batch.unreadable) == 10
