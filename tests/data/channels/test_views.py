"""Statistics, areas without data, and views of images of N channels."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from gtsa_kit.config import ChannelsConfig, ViewsConfig
from gtsa_kit.data import color
from gtsa_kit.data.augment import make_views
from gtsa_kit.data.augmentation_params import ViewColorParams
from gtsa_kit.data.channel_color import augment_channels, drop_channels
from gtsa_kit.data.channels.image import ChannelImage, ChannelLayout
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.channels.statistics import StatisticsPass
from gtsa_kit.data.channels.valid_area import cut_to_data, largest_rectangle
from gtsa_kit.data.channels.value_range import ChannelRange
from gtsa_kit.data.image_io import ImageError

VIEWS = ViewsConfig(global_size=32, local_size=16, local_crops=3, noise_std=0.05, channel_drop_p=0.3)
COLORS = ChannelRange(*(np.full((3, 1, 1), value, np.float32) for value in (0, 255)), colors=True)


def measured(pixels: np.ndarray, **options: Any) -> ChannelsConfig:
    flat = pixels.reshape(-1, pixels.shape[-1]).astype(float)
    values = {"mean": flat.mean(0), "std": flat.std(0), "low": flat.min(0), "high": flat.max(0)}
    values = {name: tuple(value.tolist()) for name, value in values.items()}
    return ChannelsConfig.model_validate({"count": pixels.shape[-1], "dtype": pixels.dtype.name, **values, **options})


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_statistics_are_those_of_all_pixels_with_data() -> None:
    rng = np.random.default_rng(0)
    layout = ChannelLayout(4, "float32")
    # A large offset: the difference of two sums of squares would lose all digits.
    images = [(1e5 + rng.normal(size=(20, 10 + 7 * i, 4))).astype(np.float32) for i in range(6)]
    masks = [rng.random(image.shape[:2]) < 0.7 for image in images]
    measuring = StatisticsPass(layout, len(images))
    for image, mask in zip(images, masks, strict=True):
        measuring.add(ChannelImage(np.where(mask[..., None], image, -1e30).astype(np.float32), layout, mask))
    flat = np.concatenate([image[mask] for image, mask in zip(images, masks, strict=True)]).astype(np.float64)
    result = measuring.result()
    np.testing.assert_allclose(result.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.std, flat.std(0), rtol=1e-9)
    np.testing.assert_array_equal(result.low, flat.min(0))
    np.testing.assert_array_equal(result.high, flat.max(0))
    assert result.images == 6


def test_percentiles_are_robust() -> None:
    rng, layout = np.random.default_rng(0), ChannelLayout(2, "uint16")
    images = [rng.integers(100, 1101, (100, 100, 2)).astype(np.uint16) for _ in range(4)]
    for image in images:
        image[::50, ::50] = 65535  # hot pixels
    measuring = StatisticsPass(layout, len(images), percentiles=(1, 99))
    for image in images:
        measuring.add(ChannelImage(image, layout))
    result, flat = measuring.result(), np.concatenate(images).reshape(-1, 2).astype(float)
    low, high = np.percentile(flat, (1, 99), axis=0)
    np.testing.assert_array_equal([result.low, result.high], [low, high])
    np.testing.assert_allclose(result.mean, flat.clip(low, high).mean(0))
    np.testing.assert_allclose(result.std, flat.clip(low, high).std(0))


def test_a_constant_channel_has_a_deviation_of_1() -> None:
    layout, pixels = ChannelLayout(2, "uint16"), np.full((5, 5, 2), 7, np.uint16)
    pixels[0, 0, 1] = 8
    measuring = StatisticsPass(layout, 1)
    with pytest.raises(ValueError, match="no image could be measured"):
        measuring.result()
    measuring.add(ChannelImage(pixels, layout))
    assert measuring.result().std[0] == 1
    assert measuring.result().std[1] == pytest.approx(0.196, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_rectangle_is_the_largest(seed: int) -> None:
    valid = np.random.default_rng(seed).random((9, 12)) < 0.8
    x0, y0, x1, y1 = largest_rectangle(valid)
    assert valid[y0:y1, x0:x1].all()
    sums = np.pad((~valid).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    areas = [
        (bottom - top) * (right - left)
        for top in range(9)
        for bottom in range(top + 1, 10)
        for left in range(12)
        for right in range(left + 1, 13)
        if sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] == 0
    ]
    assert (x1 - x0) * (y1 - y0) == max(areas)


def test_the_largest_rectangle_of_a_large_image_holds_data_alone() -> None:
    valid = np.ones((700, 1000), bool)
    valid[np.tri(700, 1000, -350, bool)] = False
    valid[100, 500:] = False
    x0, y0, x1, y1 = largest_rectangle(valid)
    assert valid[y0:y1, x0:x1].all()
    assert (x1 - x0) * (y1 - y0) > 0.95 * 599 * 600
    assert largest_rectangle(np.zeros((300, 300), bool)) == (0, 0, 0, 0)


@pytest.mark.parametrize("count", [1, 3, 13])
@pytest.mark.parametrize("colors", [True, False])
def test_views_of_an_image_never_show_what_is_no_data(count: int, colors: bool) -> None:
    """Views depend on the pixels with data alone: whatever stands elsewhere, they are the same bits."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4000, (60, 80, count)).astype(np.uint16)
    valid = np.ones((60, 80), bool)
    valid[:9], valid[:, 70:], valid[55:, :20] = False, False, False
    channels, layout = measured(pixels, colors=colors), ChannelLayout(count, "uint16")
    views = []
    for filling in (0, 65535):
        image = cut_to_data(ChannelImage(np.where(valid[..., None], pixels, filling).astype(np.uint16), layout, valid))
        samples = torch.from_numpy(ImageReader(channels).clipped(image.pixels)).permute(2, 0, 1)
        views.append(make_views(samples, VIEWS, Generator().manual_seed(0), channels))
    for one, other in zip(*views, strict=True):
        assert torch.equal(one, other)
    assert views[0].global_images.shape == (2, count, 32, 32)
    assert views[0].local_images.dtype == torch.float32
    assert views[0].global_images.isfinite().all()


def test_an_image_with_hardly_a_pixel_of_data_is_refused() -> None:
    valid = np.zeros((60, 80), bool)
    valid[::2] = True
    with pytest.raises(ValueError, match="largest area without nodata has 80 x 1 pixels, too few for a view"):
        cut_to_data(ChannelImage(np.zeros((60, 80, 2), np.uint16), ChannelLayout(2, "uint16"), valid))


def test_colors_of_8_bits_and_the_same_samples_as_floats_give_the_same_views() -> None:
    """Geometry and random numbers are shared; values differ by the rounding of 8 bits alone."""
    pixels = color_scene()
    config = ViewsConfig(global_size=32, local_size=16, local_crops=3, jitter_strength=0.3, hflip_p=0.5, noise_std=0.02)
    config = config.model_copy(update={"jitter_p": 0.0, "blur_p": 0.5})
    channels = measured(np.stack([np.zeros((9, 3)), np.full((9, 3), 255)]).astype(np.uint8), colors=True)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for seed in range(4):
        expected = make_views(image, config, Generator().manual_seed(seed))
        views = make_views(image.float(), config, Generator().manual_seed(seed), channels)
        assert torch.equal(views.boxes, expected.boxes)
        assert torch.equal(views.rotations, expected.rotations)
        for one, other in ((views.global_images, expected.global_images), (views.local_images, expected.local_images)):
            assert (one - other.float()).abs().max() <= 3


@pytest.mark.parametrize(("step", "tolerance"), [(0, 1), (2, 2), (3, 12)])
def test_jitter_of_colors_is_that_of_8_bits(step: int, tolerance: float) -> None:
    """Pillow rounds the hue to 256 values, which changes a color by six levels, and by more where hues are far."""
    pixels = color_scene().transpose(2, 0, 1)
    adjust = (color.adjust_brightness, None, color.adjust_saturation, color.adjust_hue)[step]
    factor = 0.2 if step == 3 else 1.4
    params = ViewColorParams([step], [factor] * 4, gray=False, sigma=0, noise_seed=0)
    changed = augment_channels(pixels.astype(np.float32), params, 0, COLORS)
    assert adjust is not None
    assert np.abs(changed - adjust(pixels, factor)).max() <= tolerance


def test_channels_that_are_no_colors_have_brightness_contrast_blur_and_noise_alone() -> None:
    view = np.random.default_rng(0).normal(100, 10, (5, 24, 24)).astype(np.float32)
    limits = ChannelRange(view.min((1, 2), keepdims=True), view.max((1, 2), keepdims=True), colors=True)
    still = ViewColorParams([2, 3], [1, 1, 0.2, 0.4], gray=True, sigma=0, noise_seed=0)
    limits = ChannelRange(limits.low, limits.high, colors=False)
    np.testing.assert_array_equal(augment_channels(view, still, 0, limits), view)
    darker = augment_channels(view, ViewColorParams([0], [0.5] * 4, False, 0, 0), 0, limits)
    np.testing.assert_allclose(darker, (view + limits.low) / 2, rtol=1e-5)
    flatter = augment_channels(view, ViewColorParams([1], [0.5] * 4, False, 0, 0), 0, limits)
    np.testing.assert_allclose(flatter, (view + view.mean((1, 2), keepdims=True)) / 2, rtol=1e-4)
    blurred = augment_channels(view, ViewColorParams([], [1] * 4, False, 1.5, 0), 0, limits)
    assert (blurred.std((1, 2)) < 0.5 * view.std((1, 2))).all()
    np.testing.assert_allclose(blurred.mean((1, 2)), view.mean((1, 2)), rtol=0.01)
    noisy = augment_channels(view, ViewColorParams([], [1] * 4, False, 0, 3), 0.01, limits)
    assert np.std(noisy - view) == pytest.approx(0.01 * (limits.high - limits.low).mean(), rel=0.2)


def test_a_channel_is_dropped_to_its_mean_and_one_is_always_kept() -> None:
    view = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    kept = 0
    for seed in range(50):
        dropped = drop_channels(view, 0.9, seed)
        same = (dropped == view).all((1, 2))
        assert same.any()
        kept += same.sum()
        np.testing.assert_allclose(dropped.mean((1, 2)), view.mean((1, 2)), atol=1e-6)
        assert (dropped[~same].std((1, 2)) < 1e-6).all()
    assert 50 <= kept < 80  # one of four in most views
    assert drop_channels(view, 0.0, 0) is view


def test_a_reader_takes_images_of_its_run_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (20, 30, 5)).astype(np.uint16)
    reader = ImageReader(measured(pixels))
    np.testing.assert_array_equal(reader(npy(pixels)).pixels, pixels)
    np.testing.assert_array_equal(reader.samples(npy(pixels)), pixels.astype(np.float32))
    clipping = ImageReader(measured(pixels, percentiles=(1, 99), low=(100,) * 5, high=(3000,) * 5))
    np.testing.assert_array_equal(clipping.samples(npy(pixels)), pixels.clip(100, 3000).astype(np.float32))
    with pytest.raises(ImageError, match=r"^b\.npy: 4 channels of uint16, where the others have 5$"):
        reader.samples(npy(pixels[..., :4]), "b.npy")
    with pytest.raises(ImageError, match=r"^b\.npy: samples of float32, where the others have uint16$"):
        reader.samples(npy(pixels.astype(np.float32)), "b.npy")


def color_scene() -> np.ndarray:
    from helpers.image_samples import scene

    return scene(48, 64)
