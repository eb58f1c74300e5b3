"""Colors of feature maps: equal features, kept over the checkpoints of a run and over models with other grids."""

import numpy as np
import pytest

from gtsa_kit.feature_colors import fit_color_basis


def rotation(dim: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def region_maps(prototypes: np.ndarray, labels: list[np.ndarray]) -> list[np.ndarray]:
    noise = np.random.default_rng(1)
    return [
        (prototypes[label] + 0.01 * noise.standard_normal((*label.shape, prototypes.shape[1]))).transpose(2, 0, 1)
        for label in labels
    ]


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 4, shape), np.ones((4, 4), int)) for shape in ((3, 4), (2, 5))]


def test_equal_tokens_have_equal_colors_across_images(labels: list[np.ndarray]) -> None:
    maps = region_maps(5 * np.random.default_rng(0).standard_normal((4, 16)), labels)
    basis = fit_color_basis(maps)
    colors = [basis.colors(m) for m in maps]
    assert [color.shape for color in colors] == [(12, 16, 3), (8, 20, 3)]
    flat, kind = np.concatenate([c.reshape(-1, 3) for c in colors]), np.concatenate([label.ravel() for label in labels])
    means = np.stack([flat[kind == k].mean(axis=0) for k in range(4)])
    assert max(np.abs(flat[kind == k] - means[k]).max() for k in range(4)) < 0.05
    assert min(np.abs(means[a] - means[b]).max() for a in range(4) for b in range(a)) > 0.3
    assert basis.explained > 0.99  # four points lie in three dimensions


def test_explained_variance_against_singular_values() -> None:
    tokens = np.random.default_rng(0).standard_normal((7, 6, 10)) * np.arange(1, 8)[:, None, None]
    flat = tokens.reshape(7, -1).T
    squares = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False) ** 2
    assert fit_color_basis([tokens]).explained == pytest.approx(squares[:3].sum() / squares.sum())


def test_colors_stay_over_a_run_whose_features_rotate_and_grow(labels: list[np.ndarray]) -> None:
    """At each checkpoint the features lie in other directions with another scale; the regions keep their colors."""
    prototypes = 3 * np.random.default_rng(3).standard_normal((4, 16))
    first = fit_color_basis(region_maps(prototypes, labels))
    start = colors = [first.colors(m) for m in region_maps(prototypes, labels)]
    alone = []
    for step in range(1, 5):
        changed = (1 + step) * prototypes @ rotation(16, step) + step
        maps = region_maps(changed, labels)
        basis = fit_color_basis(maps, like=[np.round(c * 255) / 255 for c in colors])
        colors = [basis.colors(m) for m in maps]
        unaligned = fit_color_basis(maps)
        alone.append(max(np.abs(unaligned.colors(m) - c).mean() for m, c in zip(maps, start, strict=True)))
    assert max(np.abs(a - b).mean() for a, b in zip(colors, start, strict=True)) < 0.05
    assert max(alone) > 0.2  # signs and order of the components change, so the test would see it


def test_models_with_other_grids_get_the_colors_of_the_first(labels: list[np.ndarray]) -> None:
    rng = np.random.default_rng(5)
    first = region_maps(3 * rng.standard_normal((4, 16)), labels)
    basis = fit_color_basis(first)
    coarse = [label[::2, ::2] for label in labels]
    second = region_maps(basis.colors(first[0]).mean() + (3 * rng.standard_normal((4, 24))), coarse)
    aligned = fit_color_basis(second, like=[basis.colors(m) for m in first])
    unaligned = fit_color_basis(second)

    def distance(other: object) -> float:
        return float(
            np.mean(
                [
                    np.abs(other.colors(b) - basis.colors(a)[::2, ::2]).mean()  # type: ignore[attr-defined]
                    for a, b in zip(first, second, strict=True)
                ]
            )
        )

    assert distance(aligned) < distance(unaligned)


def test_the_basis_does_not_depend_on_signs() -> None:
    """The same tokens, decomposed in another order of dimensions, get the same colors."""
    feature_map = np.random.default_rng(0).standard_normal((8, 5, 6)) * np.arange(1, 9)[:, None, None]
    order = np.random.default_rng(1).permutation(8)
    a, b = fit_color_basis([feature_map]), fit_color_basis([feature_map[order]])
    np.testing.assert_allclose(a.colors(feature_map), b.colors(feature_map[order]), atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_constant_maps_and_few_dimensions(dim: int) -> None:
    constant = np.ones((dim, 3, 4))
    assert (fit_color_basis([constant]).colors(constant) == 0.5).all()
    varied = np.random.default_rng(0).standard_normal((dim, 3, 4))
    colors = fit_color_basis([varied], like=[np.zeros((1, 1, 3))]).colors(varied)
    assert np.isfinite(colors).all()


def test_features_that_are_not_finite_are_an_error() -> None:
    feature_map = np.ones((4, 3, 3))
    feature_map[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity; check"):
        fit_color_basis([feature_map])
