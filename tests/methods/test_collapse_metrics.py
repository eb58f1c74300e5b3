"""Collapse metrics compared with numpy and with cases whose value is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gtsa_kit.methods.collapse_metrics import MAX_TOKENS, effective_rank, feature_std, rotation_accuracy


def noise(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


# --- feature std ------------------------------------------------------------------------------------------------------


def test_std_of_tokens_in_all_directions_is_one() -> None:
    # The mean of n unit vectors has length 1 / sqrt(n), so the result is sqrt(1 - 1 / 4000).
    assert feature_std(noise(4000, 64)) == pytest.approx(1.0, abs=1e-3)


def test_std_of_constant_tokens_is_zero() -> None:
    assert feature_std(noise(1, 64).expand(500, 64)) == pytest.approx(0.0, abs=1e-3)


def test_std_is_invariant_to_lengths() -> None:
    tokens = noise(300, 16)
    lengths = torch.linspace(0.1, 50, 300)[:, None]
    assert feature_std(tokens * lengths) == pytest.approx(feature_std(tokens), rel=1e-5)
    # Tokens of one direction are collapsed whatever their lengths are.
    assert feature_std(noise(1, 16) * lengths) == pytest.approx(0.0, abs=1e-3)


def test_std_equals_numpy() -> None:
    tokens = noise(200, 12) + 0.7
    unit = tokens.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    expected = np.sqrt((np.linalg.norm(unit - unit.mean(0), axis=1) ** 2).mean())
    assert 0.3 < expected < 0.95
    assert feature_std(tokens) == pytest.approx(expected, rel=1e-5)


def test_std_falls_as_features_collapse() -> None:
    common = noise(1, 32, seed=1)
    values = [feature_std(noise(500, 32) + common * factor) for factor in (0, 1, 3, 10, 100)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.02


# --- effective rank ---------------------------------------------------------------------------------------------------


def rank_by_svd(tokens: Tensor) -> float:
    rows = tokens.double().numpy()
    energy = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    share = energy[energy > 0] / energy.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("shape", [(300, 20), (10, 40), (2, 5), (4096, 8)])
def test_rank_equals_numpys_svd(shape: tuple[int, int]) -> None:
    tokens = noise(*shape) * torch.logspace(0, -2, shape[1]) + 5
    assert effective_rank(tokens) == pytest.approx(rank_by_svd(tokens), rel=1e-9)


def test_rank_of_one_direction_is_one() -> None:
    assert effective_rank(noise(200, 1) @ noise(1, 30)) == pytest.approx(1.0, abs=1e-4)


def test_rank_of_isotropic_tokens_is_the_width() -> None:
    # Sampling spreads the eigenvalues: the entropy loses about D / 2N of 1.
    assert effective_rank(noise(4000, 30)) == pytest.approx(30, rel=0.01)


def test_rank_of_three_equal_directions_is_three() -> None:
    basis = torch.eye(20)[:3]
    tokens = torch.cat([basis, -basis]).repeat(10, 1) + 4.0  # the mean is no direction
    assert effective_rank(tokens) == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_rank_of_constant_tokens_is_one(rows: int) -> None:
    assert effective_rank(torch.full((rows, 16), 0.1)) == pytest.approx(1.0, abs=1e-6)


def test_rank_of_many_tokens_takes_an_even_sample() -> None:
    # Tokens of a batch lie image by image: the first rows would cover one image only.
    tokens = torch.zeros(4 * MAX_TOKENS, 4)
    for quarter in range(4):
        tokens[quarter * MAX_TOKENS : (quarter + 1) * MAX_TOKENS, quarter] = 1.0
    assert effective_rank(tokens) == pytest.approx(3.0, rel=1e-9)  # four points span three directions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_metrics_accept_half_precision(dtype: torch.dtype) -> None:
    tokens = noise(500, 16).to(dtype)
    assert effective_rank(tokens) == pytest.approx(rank_by_svd(tokens), rel=1e-9)
    assert feature_std(tokens) == pytest.approx(1.0, abs=0.01)


# --- rotation accuracy ------------------------------------------------------------------------------------------------


def test_rotation_accuracy_counts_views() -> None:
    rotations = torch.tensor([[0, 1, 2], [3, 3, 0]])
    predicted = torch.tensor([[0, 1, 3], [3, 2, 0]])
    logits = torch.nn.functional.one_hot(predicted, 4) * 5.0 - 9.0
    assert float(rotation_accuracy(logits, rotations)) == pytest.approx(4 / 6)
    assert float(rotation_accuracy(logits, predicted)) == 1.0
