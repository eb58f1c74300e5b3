"""Comparison of views with those of Pillow and torchvision for the same random parameters."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers.paths import SCENES
from PIL import Image, ImageFilter
from plain.views import JITTER, plain_crop, plain_views

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import color as colors
from gtsa_kit.data.augment import apply_augmentations, crop_and_rotate, make_views
from gtsa_kit.data.augmentation_params import sample_augmentation
from gtsa_kit.data.image_io import open_image

STILL = {"jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0}


def picture(kind: str, height: int = 200, width: int = 260) -> np.ndarray:
    """Return a test image (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "black and white":
        return rng.integers(0, 2, (height, width, 1), dtype=np.uint8).repeat(3, 2) * np.uint8(255)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x % 256, (x + 2 * y) % 256, 128 + 100 * np.sin(x / 9) * np.cos(y / 11)], 2)
    return smooth.astype(np.uint8)


KINDS = ["noise", "black and white", "waves"]


def planar(image: np.ndarray | Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# --- crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", KINDS)
def test_crops_equal_pillow(kind, interpolation):
    # All shapes of crops, tall and wide, shrunk and stretched, so that both orders of Pillow's passes occur.
    image = picture(kind)
    rng = np.random.default_rng(1)
    for index in range(60):
        w, h = rng.integers(20, 260), rng.integers(20, 200)
        x, y = rng.integers(260 - w + 1), rng.integers(200 - h + 1)
        box, rotation, size = [int(x), int(y), int(x + w), int(y + h)], index % 4, (32, 64, 96)[index % 3]
        ours = crop_and_rotate(torch.from_numpy(planar(image)), box, rotation, size, interpolation).numpy()
        off = np.abs(ours.astype(int) - planar(plain_crop(Image.fromarray(image), box, rotation, size, interpolation)))
        # torch's weights have 16 bits: if a crop is hardly shrunk, two roundings in a hundred thousand coincide
        assert off.max() <= (1 if min(w, h) >= 1.5 * size else 2)
        assert (off > 1).mean() < 1e-3
        assert (off > 0).mean() < 0.04


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 20_000), (20_000, 3), (31, 17)])
def test_extreme_image_sizes(size):
    config = ViewsConfig(global_size=32, local_size=16, **STILL)
    image = picture("noise", *size)
    for seed in range(3):
        params = sample_augmentation(*size, config, torch.Generator().manual_seed(seed))
        views = apply_augmentations(torch.from_numpy(planar(image)), params, config)
        both = [*views.global_images.numpy(), *views.local_images.numpy()]
        assert max(map(furthest, both, map(planar, plain_views(Image.fromarray(image), params, config)))) <= 2


# --- colors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", range(3))
def test_brightness_contrast_and_saturation_equal_pillow_bit_for_bit(kind, step):
    image = picture(kind)
    ours = (colors.adjust_brightness, colors.adjust_contrast, colors.adjust_saturation)[step]
    for factor in (0.0, 0.2, 0.613, 1.0, 1.37, 1.8, 3.0):
        assert furthest(ours(planar(image), factor), planar(JITTER[step](Image.fromarray(image), factor))) == 0


def every_color() -> np.ndarray:
    """Return colors (n, 3): all pairs of values with every fifth third value, in each order of the channels."""
    grid = np.stack(np.meshgrid(np.arange(256), np.arange(256), np.arange(0, 256, 5)), -1).reshape(-1, 3)
    return np.concatenate([grid, grid[:, [2, 0, 1]], grid[:, [1, 2, 0]]]).astype(np.uint8)


def test_every_hue_equals_pillow():
    some = every_color()
    _, _, hues = colors.hues(np.ascontiguousarray(some.T))
    assert np.array_equal(hues, np.asarray(Image.fromarray(some[None]).convert("HSV"))[0, :, 0])


@pytest.mark.parametrize("factor", [-0.5, -0.2, -0.0731, 0.0, 0.1, 0.2, 0.5])
def test_shifted_hues_are_within_one_level_of_pillow(factor):
    some = every_color()[::101][None]
    assert furthest(colors.adjust_hue(planar(some), factor), planar(JITTER[3](Image.fromarray(some), factor))) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_grayscale_equals_pillow_bit_for_bit(kind):
    expected = Image.fromarray(picture(kind)).convert("L").convert("RGB")
    assert furthest(colors.to_grayscale(planar(picture(kind))), planar(expected)) == 0


@pytest.mark.parametrize(("kind", "size"), list(product(KINDS, [16, 32, 96, 200])))
def test_blur_is_within_three_levels_of_pillow(kind, size):
    image = picture(kind)[:size, :size]
    for sigma in (0.1, 0.3, 0.7, 1.1, 2**0.5, 1.9, 2.0, 3.5):
        expected = planar(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        off = colors.gaussian_blur(planar(image), sigma).astype(int) - expected
        assert np.abs(off).max() <= 3  # Pillow rounds six times on the way
        assert np.abs(off.mean()) < 0.3


# --- all together ----------------------------------------------------------------------------------------------------


def differences(images: list[Image.Image], config: ViewsConfig) -> np.ndarray:
    """Return the differences (values,) from plain Pillow in all views of all images."""
    parts = []
    for seed, image in enumerate(images):
        params = sample_augmentation(image.height, image.width, config, torch.Generator().manual_seed(seed))
        views = apply_augmentations(torch.from_numpy(planar(image)), params, config)
        made = [*views.global_images.numpy(), *views.local_images.numpy()]
        for ours, expected in zip(made, plain_views(image, params, config), strict=True):
            parts.append(np.abs(ours.astype(int) - planar(expected)).ravel())
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def real() -> list[Image.Image]:
    paths = sorted(SCENES.glob("*.jpg"))[:6]
    if not paths:
        pytest.skip(f"no images in {SCENES}")
    return [open_image(path) for path in paths]


@pytest.mark.parametrize("changes", [{"hflip_p": 0.5}, {"grayscale_p": 1.0}, {"noise_std": 0.05}], ids=str)
def test_views_without_jitter_and_blur_equal_the_reference(real, changes):
    off = differences(real[:3], ViewsConfig(**STILL | changes))
    assert off.max() <= 2
    assert (off > 1).mean() < 1e-4


def test_views_equal_the_reference(real):
    # One level of a crop becomes up to six where brightness, contrast and saturation all stretch it; few pixels are off
    # by one in the first place.
    off = differences(real, ViewsConfig(hflip_p=0.3))
    assert (off > 1).mean() < 0.02
    assert (off > 3).mean() < 1e-3
    assert off.max() <= 14
    assert off.mean() < 0.1


def test_memory_layout_of_an_image_does_not_matter():
    upright = torch.from_numpy(picture("waves")).permute(2, 0, 1)
    a, b = (make_views(p, ViewsConfig(), torch.Generator().manual_seed(0)) for p in (upright, upright.contiguous()))
    assert all(map(torch.equal, a, b))
