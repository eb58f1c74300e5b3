"""Means and confidence intervals."""

import numpy as np
import pytest

from gtsa_kit.evaluation.support.statistics import bootstrap_interval, mean_with_ci, wilson_interval


def test_means_and_their_intervals() -> None:
    row = mean_with_ci("x", [1.0, 3.0, float("nan")])
    assert row["x"] == 2
    assert row["x_high"] - row["x"] == pytest.approx(1.96 * np.sqrt(2) / np.sqrt(2), rel=1e-3)
    assert mean_with_ci("x", [4.0]) == {"x": 4.0, "x_low": None, "x_high": None}
    assert mean_with_ci("x", [float("nan")])["x"] is None


def test_wilson_interval_solves_its_defining_equation() -> None:
    """The ends are the proportions p from which the measured one is 1.96 standard deviations away."""
    for successes, count in ((3, 10), (50, 60), (0, 7), (7, 7)):
        for end in wilson_interval(successes, count):
            distance = (successes / count - end) ** 2 * count
            assert distance == pytest.approx(1.959963984540054**2 * end * (1 - end), abs=1e-9)


def test_wilson_interval_has_95_percent_coverage() -> None:
    rng = np.random.default_rng(0)
    covered = [low <= 0.8 <= high for low, high in (wilson_interval(int(s), 200) for s in rng.binomial(200, 0.8, 2000))]
    assert 0.93 < np.mean(covered) < 0.97


def test_bootstrap_interval_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 1, (400, 1))
    items = np.concatenate([values, np.ones_like(values)], axis=1)
    low, high = bootstrap_interval(lambda total: float(total[0] / total[1]), items)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap_interval(lambda total: 0.0, items[:1]) == (None, None)
