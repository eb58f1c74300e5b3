"""Augmentation for fine-tuning: geometry beside Pillow, crops, padding, policies and mixing of batches."""

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch.nn import functional as F

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.mixing import BatchMixer
from gtsa_kit.data.samples import seeded
from gtsa_kit.data.task_augment import ClassifyAugment, SegmentAugment
from gtsa_kit.data.task_color import ColorJitter

PALETTE = np.array([[210, 40, 40], [40, 180, 60], [30, 60, 220], [250, 250, 0]], np.uint8)


def blocks(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image whose colors show its labels, and the labels."""
    coarse = np.random.default_rng(seed).integers(0, 4, (height // 8, width // 8))
    labels = np.kron(coarse, np.ones((8, 8), int)).astype(np.uint8)
    return torch.from_numpy(PALETTE[labels]).permute(2, 0, 1), torch.from_numpy(labels)


def plain(size: tuple[int, int], **settings: object) -> SegmentAugment:
    """Return an augmentation of geometry alone."""
    return SegmentAugment(size, **{"color": None, "hflip": 0.0, **settings})


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(64, 96), (200, 40)])
def test_labels_go_where_their_pixels_go(seed: int, size: tuple[int, int]) -> None:
    image, labels = blocks(96, 128, seed)
    with seeded(seed):
        view, mask = SegmentAugment(size, color=None)(image, labels)
    assert view.shape == (3, *size)
    assert mask.shape == size
    assert view.dtype == mask.dtype == torch.uint8
    assert type(view) is type(mask) is torch.Tensor
    distance = np.abs(view.permute(1, 2, 0).numpy()[:, :, None].astype(int) - PALETTE.astype(int)).sum(-1)
    pure = (distance.min(-1) < 6) & (mask.numpy() != VOID)
    assert pure.sum() > 0.5 * (mask.numpy() != VOID).sum()
    np.testing.assert_array_equal(distance.argmin(-1)[pure], mask.numpy()[pure])


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_whole_image_is_resized_as_by_pillow(scale: float, interpolation: str) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((48, 32), Image.Resampling.BICUBIC)).copy()
    labels = np.random.default_rng(0).integers(0, 5, (32, 48)).astype(np.uint8)
    size = (round(32 * scale), round(48 * scale))
    augment = plain(size, scale=(scale, scale), interpolation=interpolation)
    view, mask = augment(torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(labels))
    resampling = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], resampling)).astype(int)
    assert np.abs(view.permute(1, 2, 0).numpy() - expected).max() <= 2
    sources = [nearest_sources(side, to) for side, to in zip((32, 48), size, strict=True)]
    for (i, rows), (j, columns) in product(enumerate(sources[0]), enumerate(sources[1])):
        assert mask[i, j] in labels[np.ix_(rows, columns)]


def nearest_sources(side: int, to: int) -> list[list[int]]:
    """Return the pixels that hold the center of each resized pixel: two if it lies on their border."""
    centers = [Fraction(2 * i + 1, 2) * side / to for i in range(to)]
    return [[int(x)] if x.denominator > 1 else [int(x) - 1, int(x)] for x in centers]


@pytest.mark.parametrize("seed", range(5))
def test_at_scale_1_a_crop_is_a_window_of_the_image_and_mirrored_with_its_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels, labels = rng.integers(0, 256, (3, 40, 50), dtype=np.uint8), rng.integers(0, 9, (40, 50), dtype=np.uint8)
    augment = plain((24, 16), scale=(1, 1), hflip=float(seed % 2), max_class_share=1.0)
    with seeded(seed):
        view, mask = augment(torch.from_numpy(pixels), torch.from_numpy(labels))
    if seed % 2:
        view, mask = view.flip(-1), mask.flip(-1)
    windows = [
        (pixels[:, top : top + 24, left : left + 16], labels[top : top + 24, left : left + 16])
        for top in range(17)
        for left in range(35)
    ]
    assert sum(np.array_equal(a, view) and np.array_equal(b, mask) for a, b in windows) == 1


@pytest.mark.parametrize(
    ("short_side", "long_side", "shape"), [(None, None, (20, 30)), (40, None, (40, 60)), (40, 45, (30, 45))]
)
def test_small_images_are_padded_with_void_and_the_mean_color(
    short_side: int | None, long_side: int | None, shape: tuple[int, int]
) -> None:
    image, labels = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.ones(20, 30, dtype=torch.uint8)
    view, mask = plain((64, 64), scale=(1, 1), short_side=short_side, long_side=long_side)(image, labels)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[: shape[0], : shape[1]] = True
    assert torch.equal(mask != VOID, inside)
    assert view[:, ~inside].unique(dim=1).squeeze().tolist() == [124, 116, 104]
    assert not view[:, inside].any()


def test_crops_of_mostly_one_class_are_drawn_again() -> None:
    labels = torch.zeros(60, 100, dtype=torch.uint8)
    labels[:, 50:75], labels[:, 75:] = 1, VOID
    image = torch.zeros(3, 60, 100, dtype=torch.uint8)

    def shares(tries: int) -> list[float]:
        result = []
        for seed in range(40):
            with seeded(seed):
                counts = plain((30, 40), scale=(1, 1), tries=tries)(image, labels)[1].flatten().bincount(minlength=256)
            result.append(float(counts[:VOID].max() / counts[:VOID].sum()))
        return result

    once, often = shares(1), shares(10)
    assert sum(share > 0.75 for share in once) > 15
    assert sum(share > 0.75 for share in often) <= 2
    assert len(plain((30, 40))(image, torch.zeros_like(labels))) == 2  # an image of one class has no such crop


def test_color_changes_the_image_alone() -> None:
    image, labels = blocks(32, 32)
    augment = SegmentAugment((32, 32), scale=(1, 1), hflip=0, color=ColorJitter(p=1.0))
    view, mask = augment(image, labels)
    assert torch.equal(mask, labels)
    assert not torch.equal(view, image)
    assert torch.equal(
        SegmentAugment((32, 32), scale=(1, 1), hflip=0, color=ColorJitter(p=0.0))(image, labels)[0], image
    )


# --- images with a class -----------------------------------------------------------------------------------------


def calm(**settings: object) -> ClassifyAugment:
    """Return an augmentation that only resizes."""
    defaults = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "rand_augment": "", "erase": 0.0}
    return ClassifyAugment((24, 24), **{**defaults, **settings})


SQUARE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
IMAGE = torch.from_numpy(np.array(Image.fromarray(SQUARE.numpy()).resize((48, 48), Image.Resampling.BICUBIC)))


def small() -> torch.Tensor:
    """Return the image at half its size, by Pillow."""
    resized = Image.fromarray(IMAGE.numpy()).resize((24, 24), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def test_the_crop_of_a_whole_image_is_that_of_pillow_and_mirrored() -> None:
    view = calm()(IMAGE.permute(2, 0, 1))
    assert (view.int() - small().int()).abs().max() <= 2
    assert torch.equal(calm(hflip=1.0)(IMAGE.permute(2, 0, 1)), view.flip(-1))


def test_a_rectangle_is_erased_by_noise_of_the_mean_color() -> None:
    image = torch.zeros(3, 24, 24, dtype=torch.uint8)
    noise = []
    for seed in range(30):
        with seeded(seed):
            view = calm(erase=1.0)(image)
        changed = (view > 0).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        height, width = (int(side.max() - side.min()) + 1 for side in (rows, columns))
        assert changed.sum() > 0.9 * height * width
        assert 0.01 < height * width / 24**2 < 0.4
        noise.append(view[:, changed].float())
    values = torch.cat(noise, 1) / 255
    assert values.mean(1).tolist() == pytest.approx([0.485, 0.456, 0.406], abs=0.02)
    assert values.std(1).tolist() == pytest.approx([0.229, 0.224, 0.225], abs=0.02)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m5-n3"])
def test_rand_augment_is_that_of_timm(policy: str) -> None:
    settings = {"translate_const": 10, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    reference = rand_augment_transform(policy, settings)
    image = small()
    augment = ClassifyAugment((24, 24), rand_augment=policy, erase=0.0, hflip=0.0, scale=(1, 1), ratio=(1, 1))
    changed = 0
    for seed in range(30):
        with seeded(seed):
            view = augment(image)
        with seeded(seed):
            try:
                expected = torch.from_numpy(np.array(reference(Image.fromarray(image.permute(1, 2, 0).numpy()))))
            except ValueError as error:  # of Pillow, for the top level of timm's posterize
                assert "bits must be" in str(error)  # noqa: PT017
                continue
        assert torch.equal(view, expected.permute(2, 0, 1))
        changed += not torch.equal(view, image)
    assert changed > 10


def test_the_top_level_of_a_policy_is_no_error() -> None:
    """Posterize keeps no bit there, for which Pillow raises."""
    image = small()
    augment = calm(rand_augment="rand-m10-n4-p1.0-inc1")
    for seed in range(40):
        with seeded(seed):
            assert augment(image).shape == (3, 24, 24)


@pytest.mark.parametrize("policy", ["random", "rand-x3", "augmix-m3"])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=r"unknown policy .*; write one such as rand-m9-mstd0\.5-inc1"):
        calm(rand_augment=policy)


# --- mixing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_have_the_shares_of_the_pixels(mixup: float, cutmix: float) -> None:
    labels = torch.tensor([0, 1, 2, 4])
    colors = torch.tensor([1.0, 3.0, 10.0, 40.0])
    mixer = BatchMixer(5, mixup, cutmix, smoothing=0.1, seed=3)
    shares = set()
    for step in range(12):
        images, targets = mixer(colors[:, None, None, None].expand(4, 3, 16, 16).clone(), labels, step, 0)
        mean = images.mean((1, 2, 3))
        lam = (mean - colors.flip(0)) / (colors - colors.flip(0))  # share of the image itself
        smooth = 0.9 * F.one_hot(labels, 5) + 0.1 / 5
        torch.testing.assert_close(targets, lam[:, None] * smooth + (1 - lam[:, None]) * smooth.flip(0))
        assert targets.dtype == torch.float32
        shares.add(round(float(lam[0]), 4))
    assert len(shares) > 6


def test_mixing_depends_on_the_seed_and_the_counters_alone() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (
        BatchMixer(4, seed=5)(images.clone(), labels, *counters) for counters in ((7, 0), (7, 0), (8, 0))
    )
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], other[1])
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_image_of_an_odd_batch_is_not_mixed(count: int) -> None:
    images, labels = torch.rand(count, 3, 8, 8), torch.arange(count)
    mixed, targets = BatchMixer(4, smoothing=0.2)(images.clone(), labels, 0)
    assert torch.equal(mixed[-1], images[-1])
    torch.testing.assert_close(targets[-1], 0.8 * F.one_hot(labels[-1], 4) + 0.2 / 4)
    if count > 1:
        assert not torch.equal(mixed[0], images[0])
        even, expected = BatchMixer(4, smoothing=0.2)(images[:2].clone(), labels[:2], 0)
        assert torch.equal(mixed[:2], even)
        assert torch.equal(targets[:2], expected)


def test_without_mixing_targets_are_those_of_label_smoothing() -> None:
    images, labels, logits = torch.rand(3, 3, 8, 8), torch.tensor([0, 2, 1]), torch.randn(3, 4)
    mixed, targets = BatchMixer(4, 0.0, 0.0, smoothing=0.2)(images, labels)
    assert mixed is images
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, targets), expected)


def test_the_strength_of_color_changes_scales_all_of_them() -> None:
    assert ColorJitter.of_strength(0.5) == ColorJitter()
    weak, strong = ColorJitter.of_strength(0.1), ColorJitter.of_strength(0.9)
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert 0 < getattr(weak, name) < getattr(ColorJitter(), name) < getattr(strong, name)
