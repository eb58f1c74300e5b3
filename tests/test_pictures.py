from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtsa_kit.checkpoint import save_encoder
from gtsa_kit.encoder import Encoder
from gtsa_kit.evaluation.pictures import fit_size, nearest, neighbours_picture, pca_colours, pca_picture, spread
from gtsa_kit.export import load


def test_like_tokens_get_like_colours_across_photographs() -> None:
    rng = np.random.default_rng(0)
    kinds = 5 * rng.standard_normal((4, 16))
    labels = [rng.integers(0, 4, (6, 9)), rng.integers(0, 4, (8, 5))]
    maps = [(kinds[label] + 0.01 * rng.standard_normal((*label.shape, 16))).transpose(2, 0, 1) for label in labels]
    colours = pca_colours(maps)
    assert [colour.shape for colour in colours] == [(6, 9, 3), (8, 5, 3)]
    flat, kind = (
        np.concatenate([c.reshape(-1, 3) for c in colours]),
        np.concatenate([label.ravel() for label in labels]),
    )
    means = np.stack([flat[kind == k].mean(axis=0) for k in range(4)])
    within = max(np.abs(flat[kind == k] - means[k]).max() for k in range(4))
    between = min(np.abs(means[a] - means[b]).max() for a in range(4) for b in range(a))
    assert within < 0.05 < 0.3 < between


def test_nearest_against_a_slow_loop() -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 5)) + 3
    order, cosines = nearest(vectors, np.array([0, 7]), top=3)
    centred = vectors - vectors.mean(axis=0)
    for row, query in enumerate([0, 7]):
        slow = {
            j: centred[query] @ centred[j] / np.linalg.norm(centred[query]) / np.linalg.norm(centred[j])
            for j in range(12)
            if j != query
        }
        wanted = sorted(slow, key=slow.get, reverse=True)[:3]
        assert order[row].tolist() == wanted
        np.testing.assert_allclose(cosines[row], [slow[j] for j in wanted])


def test_more_neighbours_than_photographs() -> None:
    order, _ = nearest(np.eye(3), np.array([0]), top=10)
    assert order.shape == (1, 2)


@pytest.mark.parametrize(
    ("size", "wanted"), [((640, 480), (336, 448)), ((100, 1000), (448, 48)), ((1, 5000), (448, 16))]
)
def test_fit_size(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert fit_size(*size, 448) == wanted


def test_pictures_are_written(photographs: Path, tmp_path: Path) -> None:
    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    paths = spread(sorted(photographs.iterdir()), 3)
    assert len(paths) == 3
    (tmp_path / "broken.jpg").write_bytes(b"")
    paths.insert(1, tmp_path / "broken.jpg")  # left out
    pca_picture(load(tmp_path, "cpu"), paths, tmp_path / "looks" / "pca.png", long_side=96)
    paths.pop(1)
    neighbours_picture(np.random.default_rng(0).standard_normal((3, 4)), paths, tmp_path / "neighbours.png")
    for name in ("looks/pca.png", "neighbours.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert pixels.std() > 10  # something is on it


def test_no_readable_photograph_is_said(tmp_path: Path) -> None:
    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    (tmp_path / "broken.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 photographs"):
        pca_picture(load(tmp_path, "cpu"), [tmp_path / "broken.jpg"], tmp_path / "pca.png")
