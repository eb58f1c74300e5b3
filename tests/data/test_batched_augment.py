"""Comparison of batched views with Pillow's for the same random parameters, and with views made one by one."""

import numpy as np
import pytest
import torch
from helpers.datasets import multicrop_dataset
from PIL import Image, ImageFilter
from plain.views import JITTER, plain_views
from torch import Tensor

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import batched_augment, batched_color
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.augmentation_params import sample_augmentation
from gtsa_kit.data.batched_augment import (
    DecodedBatch,
    apply_augmentations_batched,
    collate_decoded,
    max_side,
    prepare_for_device,
    shrink,
)
from gtsa_kit.data.multicrop import collate_views

STILL = {"jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0}
SIZES = [(300, 200), (120, 333), (256, 256), (90, 70), (1, 1), (7, 400)]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")],
    ),
]


def sample_images() -> list[Tensor]:
    """Return images (3, H, W) uint8 of many shapes: noise over waves."""
    rng, made = np.random.default_rng(0), []
    for height, width in SIZES:
        y, x = np.mgrid[:height, :width]
        waves = 128 + 90 * np.stack([np.sin(x / 9), np.cos(y / 11), np.sin((x + y) / 17)])
        made.append(torch.from_numpy((waves + rng.normal(0, 25, waves.shape)).clip(0, 255).astype(np.uint8)))
    return made


def generator(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(index)


def batched(config: ViewsConfig, device: str = "cpu") -> Views:
    batch = collate_decoded([prepare_for_device(p, config, generator(i)) for i, p in enumerate(sample_images())])
    return apply_augmentations_batched(batch, config, torch.device(device)).to(torch.device("cpu"))


def one_by_one(config: ViewsConfig) -> Views:
    return collate([make_views(p, config, generator(i)) for i, p in enumerate(sample_images())])


def by_pillow(config: ViewsConfig) -> list[list[np.ndarray]]:
    drawn = [sample_augmentation(*p.shape[-2:], config, generator(i)) for i, p in enumerate(sample_images())]
    images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in sample_images()]
    return [plain_views(image, d, config) for image, d in zip(images, drawn, strict=True)]


def flat(views: Views) -> list[np.ndarray]:
    """Return the views (S, S, 3) of each image by Pillow."""
    return [
        view.permute(1, 2, 0).numpy()
        for globals_, locals_ in zip(views.global_images, views.local_images, strict=True)
        for view in [*globals_, *locals_]
    ]


def differences(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.abs(x.astype(int) - y.astype(int)).ravel() for x, y in zip(a, b, strict=True)])


@pytest.fixture(autouse=True)
def unbounded(request, monkeypatch):
    """Disable shrinking, except in tests of shrinking."""
    if "shrunk" not in request.node.name:
        monkeypatch.setattr(batched_augment, "max_side", lambda config: 10_000)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        (STILL, 1),
        (STILL | {"interpolation": "bilinear"}, 1),
        (STILL | {"hflip_p": 0.5}, 1),
        (STILL | {"grayscale_p": 1.0}, 1),
        # Differences of the crop are multiplied by up to 1.8 and truncated up to four times; hue has 256 steps.
        (STILL | {"jitter_p": 1.0, "jitter_strength": 0.2}, 12),
        (STILL | {"blur_p": 1.0}, 3),
    ],
    ids=["crop and rotation", "bilinear", "mirror", "gray", "jitter", "blur"],
)
def test_views_equal_pillow(settings, levels, device):
    config = ViewsConfig(global_size=96, local_size=48, local_crops=3, **settings)
    pillows = [view for views in by_pillow(config) for view in views]
    apart = differences(flat(batched(config, device)), pillows)
    assert apart.max() <= levels
    assert (apart > 1).mean() < (0.05 if settings.get("blur_p") else 0.01)  # Pillow rounds between passes of the blur


def test_views_with_all_augmentations_equal_those_made_one_by_one():
    config = ViewsConfig(global_size=96, local_size=48, local_crops=4)
    ours, theirs = batched(config), one_by_one(config)
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.rotations, theirs.rotations)
    apart = differences(flat(ours), flat(theirs))
    assert (apart > 1).mean() < 0.003
    assert (apart > 3).mean() < 0.0005


@pytest.mark.parametrize("step", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_equals_pillow_bit_for_bit(step):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    index = ["brightness", "contrast", "saturation", "hue"].index(step)
    factors = rng.uniform(-0.5, 0.5, 6) if step == "hue" else rng.uniform(0, 2, 6)
    work = [
        batched_color.adjust_brightness,
        batched_color.adjust_contrast,
        batched_color.adjust_saturation,
        batched_color.adjust_hue,
    ][index]
    ours = work(torch.from_numpy(images).permute(0, 3, 1, 2).float(), torch.from_numpy(factors))
    for image, factor, made in zip(images, factors, ours, strict=True):
        pillows = np.asarray(JITTER[index](Image.fromarray(image), factor))
        apart = np.abs(made.permute(1, 2, 0).numpy() - pillows.astype(int)).max()
        assert apart <= (1 if step == "hue" else 0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_blur_equals_pillow(sigma):
    image = np.random.default_rng(4).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    ours = batched_color.gaussian_blur(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), torch.tensor([sigma]).double()
    )
    pillows = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - pillows).max() <= 3


def test_a_view_does_not_depend_on_its_batch():
    config = ViewsConfig(global_size=64, local_size=32, local_crops=2)
    parts = [prepare_for_device(p, config, generator(i)) for i, p in enumerate(sample_images())]
    together = apply_augmentations_batched(collate_decoded(parts), config, torch.device("cpu"))
    for i, part in enumerate(parts):
        alone = apply_augmentations_batched(part, config, torch.device("cpu"))
        # Matrix products of other sizes round differently by a level, which colors amplify little.
        apart = (alone.global_images[0].int() - together.global_images[i].int()).abs()
        assert (apart > 1).float().mean() < 0.003


def test_without_local_crops():
    views = batched(ViewsConfig(global_size=32, local_crops=0))
    assert views.global_images.shape == (len(SIZES), 2, 3, 32, 32)
    assert views.local_images.shape[1] == 0


def test_noise_has_its_standard_deviation():
    config = ViewsConfig(global_size=96, local_crops=0, **STILL)
    gray = torch.full((3, 96, 96), 128, dtype=torch.uint8)
    still, noisy = (
        apply_augmentations_batched(
            prepare_for_device(gray, c, generator(0)), c, torch.device("cpu")
        ).global_images.float()
        for c in (config, config.model_copy(update={"noise_std": 0.05}))
    )
    assert (noisy - still).std() == pytest.approx(0.05 * 255, rel=0.03)


def test_shrunk_images_have_enough_pixels_for_the_smallest_crops():
    config = ViewsConfig()
    side = max_side(config)
    # The crop of the smallest area and the most extreme aspect still has a pixel for each pixel of the view.
    assert np.sqrt(side**2 * config.global_area[0] * config.aspect[0]) >= config.global_size
    assert np.sqrt(side**2 * config.local_area[0] * config.aspect[0]) >= config.local_size
    for height, width in [(2000, 3000), (20_000, 30), (side, side), (10, 10)]:
        small = shrink(torch.zeros(3, height, width, dtype=torch.uint8), side)
        assert small.shape[1] * small.shape[2] <= side**2 * 1.01
        assert max(small.shape[1:]) <= 2 * side
    assert shrink(torch.zeros(3, side, side, dtype=torch.uint8), side).shape == (3, side, side)


def test_views_of_shrunk_images_equal_those_of_the_originals():
    # Waves of 40 pixels and more, which shrinking to a third preserves.
    y, x = np.mgrid[:1200, :1600]
    waves = 128 + 90 * np.stack([np.sin(x / 41), np.cos(y / 45), np.sin((x + y) / 57)])
    image = torch.from_numpy(waves.astype(np.uint8))
    config = ViewsConfig(global_size=96, local_size=48, local_crops=3, **STILL)
    full = make_views(image, config, generator(0))
    loaded = prepare_for_device(image, config, generator(0))
    assert max(loaded.pixels.shape) < 300
    views = apply_augmentations_batched(loaded, config, torch.device("cpu"))
    assert torch.equal(views.boxes[0], full.boxes)  # in pixels of the image, not of what was made of it
    assert (views.global_images[0].int() - full.global_images.int()).abs().float().mean() < 1.0
    assert (views.local_images[0].int() - full.local_images.int()).abs().float().mean() < 1.5


def test_dataset_samples_the_same_parameters_for_device_and_workers(tmp_path):
    for i, image in enumerate(sample_images()[:3]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    config = ViewsConfig(global_size=64, local_size=32, local_crops=2)
    here = collate_views([multicrop_dataset(paths, config, seed=5)[t] for t in range(4)]).content
    there = collate_views([multicrop_dataset(paths, config, seed=5, on_device=True)[t] for t in range(4)]).content
    assert isinstance(there, DecodedBatch)
    made = apply_augmentations_batched(there, config, torch.device("cpu"))
    assert torch.equal(made.boxes, here.boxes)
    assert torch.equal(made.rotations, here.rotations)
    assert (differences(flat(made), flat(here)) > 1).mean() < 0.005


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_augmentation_does_not_synchronize():
    config = ViewsConfig(global_size=96, local_size=48, local_crops=3)
    batch = collate_decoded(
        [prepare_for_device(p, config, generator(i)) for i, p in enumerate(sample_images())]
    ).pin_memory()
    apply_augmentations_batched(batch, config, torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        apply_augmentations_batched(batch, config, torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
