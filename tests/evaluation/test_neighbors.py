"""Nearest neighbors of embeddings, and their figure."""

from pathlib import Path

import numpy as np
import pytest

from gtsa_kit.evaluation.neighbors import draw_neighbors, finite_vectors, nearest_neighbors


def test_nearest_against_a_slow_loop() -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 5)) + 3
    order, cosines = nearest_neighbors(vectors, np.array([0, 7]), top=3)
    centered = vectors - vectors.mean(axis=0)
    for row, query in enumerate([0, 7]):
        slow = {
            j: centered[query] @ centered[j] / np.linalg.norm(centered[query]) / np.linalg.norm(centered[j])
            for j in range(12)
            if j != query
        }
        expected = sorted(slow, key=slow.get, reverse=True)[:3]
        assert order[row].tolist() == expected
        np.testing.assert_allclose(cosines[row], [slow[j] for j in expected])


def test_more_neighbors_than_images() -> None:
    order, _ = nearest_neighbors(np.eye(3), np.array([0]), top=10)
    assert order.shape == (1, 2)


def test_a_row_for_each_query_and_model_with_names_and_cosines(images: Path) -> None:
    paths = sorted(images.iterdir())[:3]
    rng = np.random.default_rng(0)
    vectors = {"a": rng.standard_normal((3, 4)), "random": rng.standard_normal((3, 4))}
    figure = draw_neighbors(vectors, paths, queries=2)
    rows = np.array(figure.axes).reshape(4, 3)
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["a", "random"] * 2
    for index, (name, query) in enumerate([("a", 0), ("random", 0), ("a", 2), ("random", 2)]):
        order, cosines = nearest_neighbors(vectors[name], np.array([query]), 5)
        for axis, neighbor, cosine in zip(rows[index, 1:], order[0], cosines[0], strict=True):
            assert axis.get_xlabel() == f"{paths[neighbor].parent.name}/{paths[neighbor].name}"
            assert axis.get_title() == f"cosine {cosine:.3f}"
    assert [len(axis.images) for axis in rows[:, 0]] == [1, 0, 1, 0]  # a query is drawn once
    with pytest.raises(ValueError, match="at least two"):
        draw_neighbors({"a": np.ones((1, 4))}, paths[:1])


def test_images_whose_vectors_are_not_finite_in_one_model_are_left_out(images: Path) -> None:
    paths = sorted(images.iterdir())[:4]
    vectors = {name: np.random.default_rng(seed).standard_normal((4, 4)) for seed, name in enumerate("ab")}
    vectors["b"][1, 2] = np.nan
    kept, kept_paths, skipped = finite_vectors(vectors, paths)
    assert (skipped, kept_paths) == ([paths[1]], [paths[0], *paths[2:]])
    for name in "ab":
        np.testing.assert_array_equal(kept[name], np.delete(vectors[name], 1, axis=0))
    with pytest.raises(ValueError, match="all vectors hold NaN"):
        finite_vectors({"a": np.full((4, 4), np.nan)}, paths)
