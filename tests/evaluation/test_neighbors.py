"""Nearest neighbors of embeddings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtsa_kit.evaluation.neighbors import draw_neighbors, nearest_neighbors


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


def test_the_figure_is_written(images: Path, tmp_path: Path) -> None:
    paths = sorted(images.iterdir())[:4]
    vectors = np.random.default_rng(0).standard_normal((4, 4))
    draw_neighbors(np.delete(vectors, 1, axis=0), np.delete(paths, 1).tolist(), tmp_path / "without.png")
    vectors[1, 2] = np.nan
    assert draw_neighbors(vectors, paths, tmp_path / "neighbors.png") == [paths[1]]
    assert (tmp_path / "neighbors.png").read_bytes() == (tmp_path / "without.png").read_bytes()
    with pytest.raises(ValueError, match="all vectors hold NaN"):
        draw_neighbors(np.full((4, 4), np.nan), paths, tmp_path / "neighbors.png")
    assert np.asarray(Image.open(tmp_path / "neighbors.png").convert("RGB")).std() > 10  # not blank
