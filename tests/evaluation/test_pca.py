import json
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_models import colors, constant, fake, odd_ones
from PIL import Image

from gtsa_kit.evaluation.neighbors import nearest, neighbors_picture
from gtsa_kit.evaluation.pca import components, fit_size, pca
from gtsa_kit.evaluation.scenes import spread


def test_like_tokens_get_like_colors_across_images() -> None:
    rng = np.random.default_rng(0)
    kinds = 5 * rng.standard_normal((4, 16))
    labels = [rng.integers(0, 4, (6, 9)), rng.integers(0, 4, (8, 5))]
    maps = [(kinds[label] + 0.01 * rng.standard_normal((*label.shape, 16))).transpose(2, 0, 1) for label in labels]
    found = components(maps)
    assert [color.shape for color in found.colors] == [(6, 9, 3), (8, 5, 3)]
    flat = np.concatenate([color.reshape(-1, 3) for color in found.colors])
    kind = np.concatenate([label.ravel() for label in labels])
    means = np.stack([flat[kind == k].mean(axis=0) for k in range(4)])
    within = max(np.abs(flat[kind == k] - means[k]).max() for k in range(4))
    between = min(np.abs(means[a] - means[b]).max() for a in range(4) for b in range(a))
    assert within < 0.05 < 0.3 < between
    assert found.explained > 0.99  # four points lie in three dimensions


def test_the_explained_share_against_singular_values() -> None:
    tokens = np.random.default_rng(0).standard_normal((7, 6, 10)) * np.arange(1, 8)[:, None, None]
    flat = tokens.reshape(7, -1).T
    squares = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False) ** 2
    assert components([tokens]).explained == pytest.approx(squares[:3].sum() / squares.sum())


def test_nearest_against_a_slow_loop() -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 5)) + 3
    order, cosines = nearest(vectors, np.array([0, 7]), top=3)
    centered = vectors - vectors.mean(axis=0)
    for row, query in enumerate([0, 7]):
        slow = {
            j: centered[query] @ centered[j] / np.linalg.norm(centered[query]) / np.linalg.norm(centered[j])
            for j in range(12)
            if j != query
        }
        wanted = sorted(slow, key=slow.get, reverse=True)[:3]
        assert order[row].tolist() == wanted
        np.testing.assert_allclose(cosines[row], [slow[j] for j in wanted])


def test_more_neighbors_than_images() -> None:
    order, _ = nearest(np.eye(3), np.array([0]), top=10)
    assert order.shape == (1, 2)


@pytest.mark.parametrize(
    ("size", "wanted"), [((640, 480), (336, 448)), ((100, 1000), (448, 48)), ((1, 5000), (448, 16))]
)
def test_fit_size(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert fit_size(*size, 448) == wanted


def test_pictures_are_written(images: Path, tmp_path: Path) -> None:
    paths = spread(sorted(images.iterdir()), 3)
    assert len(paths) == 3
    report = pca(
        [fake(colors, "a"), fake(constant, "b")], [*paths, *odd_ones(tmp_path)], tmp_path / "new" / "pca.png", 96
    )
    assert [row["model"] for row in report.rows] == ["a", "b"]
    assert report.rows[0]["explained"] == pytest.approx(100)  # three channels
    assert report.settings["images"] == 6
    assert len(report.settings["skipped"]) == 2
    json.dumps(report.to_dict())
    neighbors_picture(np.random.default_rng(0).standard_normal((3, 4)), paths, tmp_path / "neighbors.png")
    for name in ("new/pca.png", "neighbors.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert pixels.std() > 10  # something is on it


def test_no_readable_image_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 images"):
        pca([fake(colors)], [tmp_path / "broken.jpg"], tmp_path / "pca.png")
