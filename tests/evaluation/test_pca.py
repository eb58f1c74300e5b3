"""Figure of the principal components of feature maps."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_models import color_tokens, constant_tokens, fake_model, write_edge_cases
from matplotlib.figure import Figure
from PIL import Image

from gtsa_kit.evaluation import pca as evaluation
from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.evaluation.pca import draw_color_maps, pca


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


def test_names_below_images_and_models_beside_rows() -> None:
    pictures = [("a.jpg", Image.new("RGB", (8, 4))), ("b.jpg", Image.new("RGB", (4, 8)))]
    colors = [np.zeros((2, 4, 3)), np.ones((4, 2, 3))]
    figure = draw_color_maps(pictures, {"trained": colors, "random": colors})
    rows = np.array(figure.axes).reshape(3, 2)
    assert [axis.get_xlabel() for axis in rows[0]] == ["a.jpg", "b.jpg"]
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["", "trained", "random"]
    assert "red, green and blue" in figure.get_suptitle()
    for axis, (_, image) in zip(rows[1], pictures, strict=True):
        assert list(axis.images[0].get_extent()) == [0, image.width, image.height, 0]


def test_two_models_with_equal_features_in_other_directions_have_equal_colors(images: Path, tmp_path: Path) -> None:
    """The second model's features are permuted, negated and scaled."""
    drawn: dict[str, list[np.ndarray]] = {}
    original = evaluation.draw_color_maps

    def keep(pictures: object, colors: dict[str, list[np.ndarray]]) -> Figure:
        drawn.update(colors)
        return original(pictures, colors)

    other = fake_model(lambda patches: -3 * patches[[2, 0, 1]], "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "draw_color_maps", keep)
        pca([fake_model(color_tokens, "a"), other], sorted(images.iterdir())[:2], tmp_path / "pca.svg", 96)
    for a, b in zip(drawn["a"], drawn["b"], strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "unreadable.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 images"):
        pca([fake_model(color_tokens)], [tmp_path / "unreadable.jpg"], tmp_path / "pca.png")
