"""Nearest neighbors of embeddings."""

from pathlib import Path

import numpy as np
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
    paths = sorted(images.iterdir())[:3]
    draw_neighbors(np.random.default_rng(0).standard_normal((3, 4)), paths, tmp_path / "neighbors.png")
    assert np.asarray(Image.open(tmp_path / "neighbors.png").convert("RGB")).std() > 10  # not blank
