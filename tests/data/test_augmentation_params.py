"""Sampled parameters follow the distributions that the configuration states (tests at p = 0.001 and fixed seeds)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data.augmentation_params import (
    JITTER_STEPS,
    AugmentationParams,
    sample_augmentation,
    sample_box,
    sample_boxes,
    sample_color_params,
)
from gtsa_kit.geometry import box_area

LEAST_P = 0.001
MANY = 8000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def follows_uniform(values: np.ndarray, low: float, high: float) -> bool:
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def as_often(values: np.ndarray, kinds: int) -> bool:
    return stats.chisquare(np.bincount(values, minlength=kinds)).pvalue > LEAST_P


def same(a: AugmentationParams, b: AugmentationParams) -> bool:
    return all(map(torch.equal, (*a[:3], *a.colors), (*b[:3], *b.colors)))


@pytest.fixture(scope="module")
def free() -> np.ndarray:
    """Crops (n, 4), in units of the sides, of an image so large that rounding to pixels is negligible."""
    sampled = [sample_box(60_000, 80_000, (0.1, 0.3), (3 / 4, 4 / 3), generator(i)) for i in range(2000)]
    return torch.stack(sampled).numpy() / [80_000, 60_000, 80_000, 60_000]


def test_areas_and_aspects(free):
    width, height = (free[:, 2:] - free[:, :2]).T
    assert follows_uniform(width * height, 0.1, 0.3)
    assert follows_uniform(np.log(width * 80 / (height * 60)), math.log(3 / 4), math.log(4 / 3))
    assert abs(stats.spearmanr(width * height, width / height).statistic) < 0.08  # each drawn by itself


def test_positions(free):
    width, height = (free[:, 2:] - free[:, :2]).T
    assert follows_uniform(free[:, 0] / (1 - width), 0, 1)
    assert follows_uniform(free[:, 1] / (1 - height), 0, 1)


def test_boxes_have_the_distribution_of_rejection_sampling():
    # The reference samples whole sets of crops with another generator and rejects those that break the rule.
    config, rng = ViewsConfig(local_crops=2), np.random.default_rng(0)

    def crop(area: tuple[float, float]) -> np.ndarray:
        while True:
            share = rng.uniform(*area) * 480 * 640
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(share * ratio)), round(math.sqrt(share / ratio))
            if w <= 640 and h <= 480:
                x, y = rng.integers(640 - w + 1), rng.integers(480 - h + 1)
                return np.array([x, y, x + w, y + h])

    def crops() -> np.ndarray:
        counts: list[np.ndarray] = []
        while len(counts) < 4:
            box = crop(config.global_area if len(counts) < 2 else config.local_area)
            low = [np.maximum(box[:2], other[:2]) for other in counts[:2]]
            high = [np.minimum(box[2:], other[2:]) for other in counts[:2]]
            least = config.min_global_overlap if len(counts) < 2 else config.min_overlap
            if all(np.clip(b - a, 0, None).prod() >= least * 480 * 640 for a, b in zip(low, high, strict=True)):
                counts.append(box)
        return np.stack(counts)

    expected = np.stack([crops() for _ in range(700)])
    sampled = torch.stack([sample_boxes(480, 640, config, generator(i)) for i in range(700)]).numpy()
    for view in (0, 1, 3):
        for side in range(4):
            assert stats.ks_2samp(expected[:, view, side], sampled[:, view, side]).pvalue > LEAST_P
    areas = [box_area(torch.as_tensor(boxes[:, 2])).numpy() for boxes in (expected, sampled)]
    assert stats.ks_2samp(*areas).pvalue > LEAST_P


def test_rotations_and_flips():
    sampled = [sample_augmentation(48, 64, ViewsConfig(hflip_p=0.3), generator(i)) for i in range(400)]
    rotations = torch.stack([one.rotations for one in sampled])
    assert as_often(rotations.flatten().numpy(), 4)
    assert as_often((rotations[:, 0] * 4 + rotations[:, 1]).numpy(), 16)  # of one view and of the next, independently
    flips = torch.stack([one.flips for one in sampled]).flatten()
    assert stats.binomtest(int(flips.sum()), len(flips), 0.3).pvalue > LEAST_P


@pytest.mark.parametrize("strength", [1.0, 0.5, 2.5])
def test_jitter_factors(strength):
    factors = sample_color_params(MANY, ViewsConfig(jitter_strength=strength), generator(1)).factors.numpy().T
    most = 0.8 * strength
    for values in factors[:3]:
        assert follows_uniform(values, max(0, 1 - most), 1 + most)
    assert follows_uniform(factors[3], -0.2 * strength, 0.2 * strength)
    assert np.abs(np.corrcoef(factors) - np.eye(4)).max() < 0.05


def test_jitter_orders():
    orders = sample_color_params(MANY, ViewsConfig(), generator(2)).orders
    assert (orders.sort(-1).values == torch.arange(len(JITTER_STEPS))).all()
    _, which = torch.unique(orders, dim=0, return_inverse=True)
    assert as_often(which.numpy(), 24)


def test_probabilities_and_blur():
    config = ViewsConfig(jitter_p=0.8, grayscale_p=0.2, blur_p=0.35, blur_sigma=(0.1, 2.0))
    sampled = sample_color_params(MANY, config, generator(3))
    events = torch.stack([sampled.jittered, sampled.gray, sampled.sigmas > 0]).numpy()
    for happened, p in zip(events, (0.8, 0.2, 0.35), strict=True):
        assert stats.binomtest(int(happened.sum()), MANY, p).pvalue > LEAST_P
    assert np.abs(np.corrcoef(events) - np.eye(3)).max() < 0.05
    assert follows_uniform(sampled.sigmas[sampled.sigmas > 0].numpy(), 0.1, 2.0)


def test_noise_seeds_differ():
    seeds = sample_color_params(MANY, ViewsConfig(), generator(4)).noise_seeds
    assert len(seeds.unique()) == MANY
    assert (seeds >= 0).all()


def test_disabled_augmentations_change_no_other_parameter():
    params = sample_augmentation(48, 64, ViewsConfig(), generator(5))
    still = sample_augmentation(48, 64, ViewsConfig(jitter_p=0, grayscale_p=0, blur_p=0, rotate=False), generator(5))
    assert torch.equal(params.boxes, still.boxes)
    assert torch.equal(params.colors.factors, still.colors.factors)
    assert not still.rotations.any()
    assert [row.order for row in still.colors.rows()] == [[]] * 10
    assert same(sample_augmentation(48, 64, ViewsConfig(), generator(5)), params)
    assert not same(sample_augmentation(48, 64, ViewsConfig(), generator(6)), params)


def test_blur_in_proportion_to_the_side_of_a_view_changes_nothing_else() -> None:
    sizes = {"global_size": 192, "local_size": 96, "blur_p": 1.0}
    plain, scaled = (
        sample_augmentation(300, 400, ViewsConfig(**sizes, blur_side=side), generator(7)) for side in (0, 224)
    )
    factors = [192 / 224] * 2 + [96 / 224] * (len(plain.boxes) - 2)
    assert scaled.colors.sigmas.tolist() == pytest.approx((plain.colors.sigmas * torch.tensor(factors)).tolist())
    assert same(plain, scaled._replace(colors=scaled.colors._replace(sigmas=plain.colors.sigmas)))
