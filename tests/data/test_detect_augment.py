"""Augmentation of images with objects: what holds for every image, and how batches are padded."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.instance_data import draw_images, write_coco
from torchvision.ops import masks_to_boxes

from gtsa_kit.data.detect_augment import DetectAugment, DetectBatch
from gtsa_kit.data.detect_batches import ObjectExamples, ObjectSamples
from gtsa_kit.data.instance_reader import read_instance_dataset
from gtsa_kit.data.instances import Instances
from gtsa_kit.data.samples import Batch, seeded
from gtsa_kit.data.task_color import ColorJitter


def example(height: int = 60, width: int = 84, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, Instances]:
    """Return a random image and elliptic objects, the last a crowd region."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        cy, cx = rng.uniform(8, height - 8), rng.uniform(8, width - 8)
        mask[:] = ((y - cy) / rng.uniform(4, 20)) ** 2 + ((x - cx) / rng.uniform(4, 20)) ** 2 < 1
    boxes = masks_to_boxes(torch.from_numpy(masks)).numpy() + np.float32([0, 0, 1, 1])
    crowd = np.arange(count) == count - 1
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return image, Instances(boxes.astype(np.float32), np.arange(count) % 3, crowd, masks)


def same_size(height: int, width: int, **settings: float) -> DetectAugment:
    """Return an augmentation that does not resize."""
    short, long = sorted((height, width))
    return DetectAugment(4, (short, short), long, **settings)  # type: ignore[arg-type]


def test_mirroring_twice_is_the_identity() -> None:
    image, objects = example()
    mirror, crowd = same_size(60, 84, hflip=1.0), objects.crowd
    once = mirror(image, objects)
    assert not torch.equal(once.images[0], image)
    assert once.targets[0]["masks"].dtype == torch.uint8
    back = mirror(
        once.images[0],
        Instances(
            once.targets[0]["boxes"].numpy(),
            once.targets[0]["labels"].numpy() - 1,
            np.zeros(5, bool),
            once.targets[0]["masks"].numpy().astype(bool),
        ),
    )
    assert torch.equal(back.images[0], image)
    assert objects.masks is not None
    np.testing.assert_allclose(back.targets[0]["boxes"], objects.boxes[~crowd], atol=1e-5)
    np.testing.assert_array_equal(back.targets[0]["masks"], objects.masks[~crowd])
    np.testing.assert_array_equal(back.targets[0]["labels"], objects.classes[~crowd] + 1)


@pytest.mark.parametrize("crop", [None, (48, 40)])
def test_boxes_are_those_of_the_masks_within_a_pixel(crop: tuple[int, int] | None) -> None:
    augment = DetectAugment(8, (40, 110), 130, crop, color=ColorJitter())
    kept = 0
    for seed in range(20):
        image, objects = example(seed=seed)
        with seeded(seed):
            batch = augment(image, objects)
        target, (height, width) = batch.targets[0], batch.sizes[0].tolist()
        assert target["masks"].shape[1:] == (height, width)
        assert all(side % 8 == 0 for side in batch.images.shape[2:])
        assert 0 <= batch.images.shape[2] - height < 8
        assert 0 <= batch.images.shape[3] - width < 8
        if crop:
            assert height <= crop[0]
            assert width <= crop[1]
        else:
            assert 40 <= min(height, width) <= 110
            assert max(height, width) <= 130
            assert abs(height / width - 60 / 84) < 0.02
        enclosing = masks_to_boxes(target["masks"].bool()) + torch.tensor([0, 0, 1, 1])
        assert (enclosing - target["boxes"]).abs().max() <= 1.001
        assert ((target["boxes"][:, 2:] - target["boxes"][:, :2]) >= 1).all()
        kept += len(target["boxes"])
    assert kept > 40 if crop else kept > 95


def test_crowd_regions_and_objects_without_area_are_no_targets() -> None:
    image, objects = example()
    boxes, masks = objects.boxes.copy(), np.asarray(objects.masks).copy()
    boxes[0, 2] = boxes[0, 0] + 0.5  # narrower than a pixel
    masks[1] = False  # nothing is visible
    target = same_size(60, 84, hflip=0.0)(image, Instances(boxes, objects.classes, objects.crowd, masks)).targets[0]
    np.testing.assert_array_equal(target["boxes"], objects.boxes[2:5])
    np.testing.assert_array_equal(target["labels"], objects.classes[2:5] + 1)
    np.testing.assert_array_equal(target["masks"], masks[2:5])
    none = Instances(*(np.asarray(values)[:0] for values in objects))
    empty = same_size(60, 84)(image, none).targets[0]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 60, 84)
    assert "masks" not in same_size(60, 84)(image, objects._replace(masks=None)).targets[0]


def test_samples_depend_on_the_seed_and_their_number_alone(tmp_path: Path) -> None:
    data = read_instance_dataset(write_coco(tmp_path, draw_images(4)))
    augment = DetectAugment(8, (24, 48), 64, crop=(40, 40), color=ColorJitter())

    def sample(number: int, seed: int = 0) -> DetectBatch:
        samples = pickle.loads(pickle.dumps(ObjectSamples(ObjectExamples(data, range(4)), augment, seed)))
        content = samples[number].content
        assert isinstance(content, DetectBatch)
        return content

    def equal(a: DetectBatch, b: DetectBatch) -> bool:
        pairs = [(a.images, b.images), (a.sizes, b.sizes), *((a.targets[0][k], b.targets[0][k]) for k in a.targets[0])]
        return all(torch.equal(x, y) for x, y in pairs)

    assert all(equal(sample(t), sample(t)) for t in range(8))
    assert not any(equal(sample(t), sample(t, seed=1)) for t in range(8))
    assert not equal(sample(0), sample(4))


def test_batches_are_padded_to_the_largest_image_and_name_unreadable_ones(tmp_path: Path) -> None:
    images = draw_images(4)
    data = read_instance_dataset(write_coco(tmp_path, images))
    augment = DetectAugment(8, (32, 48), 64, hflip=0.0, mean=(0.2, 0.4, 0.6))
    (tmp_path / "images" / images[1].name).write_bytes(b"")
    (tmp_path / "images" / images[2].name).write_bytes((tmp_path / "images" / images[0].name).read_bytes())
    samples = [ObjectSamples(ObjectExamples(data, range(4)), augment, 0)[t] for t in range(4)]
    batch = augment.collate(samples).share_memory()
    assert {entry.reason for entry in batch.unreadable} >= {"empty file"}
    assert any(entry.reason.startswith("it is ") for entry in batch.unreadable)
    assert batch.content is not None
    assert batch.content.images.shape[0] == len(batch.content.targets) == 4
    common_size = [max(sample.content.images.shape[axis] for sample in samples if sample.content) for axis in (2, 3)]
    assert list(batch.content.images.shape[2:]) == common_size
    for sample, image, size in zip(samples, batch.content.images, batch.content.sizes.tolist(), strict=True):
        assert sample.content is not None
        height, width = size
        assert torch.equal(image[:, :height, :width], sample.content.images[0, :, :height, :width])
        beyond = torch.cat([image[:, height:].flatten(1), image[:, :, width:].flatten(1)], 1)
        assert (beyond == torch.tensor([[51], [102], [153]])).all()
    assert augment.collate([*samples, Batch(None, [])]).content is None
