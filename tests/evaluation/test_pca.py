"""Principal components of feature maps."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_models import color_tokens, constant_tokens, fake_model, write_edge_cases
from PIL import Image

from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.evaluation.pca import pca, principal_components


def test_equal_tokens_have_equal_colors_across_images() -> None:
    rng = np.random.default_rng(0)
    prototypes = 5 * rng.standard_normal((4, 16))
    labels = [rng.integers(0, 4, (6, 9)), rng.integers(0, 4, (8, 5))]
    maps = [(prototypes[label] + 0.01 * rng.standard_normal((*label.shape, 16))).transpose(2, 0, 1) for label in labels]
    result = principal_components(maps)
    assert [color.shape for color in result.colors] == [(6, 9, 3), (8, 5, 3)]
    flat = np.concatenate([color.reshape(-1, 3) for color in result.colors])
    kind = np.concatenate([label.ravel() for label in labels])
    means = np.stack([flat[kind == k].mean(axis=0) for k in range(4)])
    spread_within = max(np.abs(flat[kind == k] - means[k]).max() for k in range(4))
    distance_between = min(np.abs(means[a] - means[b]).max() for a in range(4) for b in range(a))
    assert spread_within < 0.05 < 0.3 < distance_between
    assert result.explained > 0.99  # four points lie in three dimensions


def test_explained_variance_against_singular_values() -> None:
    tokens = np.random.default_rng(0).standard_normal((7, 6, 10)) * np.arange(1, 8)[:, None, None]
    flat = tokens.reshape(7, -1).T
    squares = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False) ** 2
    assert principal_components([tokens]).explained == pytest.approx(squares[:3].sum() / squares.sum())


def test_the_figure_is_written(images: Path, tmp_path: Path) -> None:
    paths = evenly_spaced(sorted(images.iterdir()), 3)
    assert len(paths) == 3
    models = [fake_model(color_tokens, "a"), fake_model(constant_tokens, "b")]
    report = pca(models, [*paths, *write_edge_cases(tmp_path)], tmp_path / "new" / "pca.png", 96)
    assert [row["model"] for row in report.rows] == ["a", "b"]
    assert report.rows[0]["explained"] == pytest.approx(100)  # three channels
    assert report.settings["images"] == 6
    assert len(report.settings["skipped"]) == 2
    json.dumps(report.to_dict())
    assert np.asarray(Image.open(tmp_path / "new" / "pca.png").convert("RGB")).std() > 10  # not blank


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "unreadable.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 images"):
        pca([fake_model(color_tokens)], [tmp_path / "unreadable.jpg"], tmp_path / "pca.png")
