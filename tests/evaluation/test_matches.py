"""Patch matches against the loss and slow loops, and their figure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import color_tokens, fake_model, write_edge_cases, write_gradient, write_noise
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from gtsa_kit.evaluation import match_plot
from gtsa_kit.evaluation.eval_images import common_size, encode
from gtsa_kit.evaluation.image_pairs import read_pairs
from gtsa_kit.evaluation.matches import (
    MatchesOptions,
    PatchMatches,
    ViewPairs,
    chance_of_matches,
    feature_maps,
    match_distances,
    match_patches,
    matches,
)
from gtsa_kit.figures import RIGHT, WRONG
from gtsa_kit.methods.gtsa_losses import correspondence_loss

SMALL = MatchesOptions(match_fraction=0.2, size=96)


@pytest.mark.parametrize("match_fraction", [0.01, 0.3, 1.0])
def test_matches_are_those_of_the_loss(match_fraction: float) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 8, 5, 5))
    result = match_patches(*maps, match_fraction)
    pair = torch.from_numpy(maps)[None]
    loss = correspondence_loss(pair, torch.empty(1, 0, 8, 5, 5, dtype=torch.float64), pair, match_fraction)
    assert result.cosine.mean() == pytest.approx(-float(loss))


def test_each_match_is_a_nearest_neighbor() -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 8, 4, 4))
    result = match_patches(a, b, 0.5)
    first, second = a.reshape(8, -1), b.reshape(8, -1)

    def cosine(i: int, j: int) -> float:
        return first[:, i] @ second[:, j] / np.linalg.norm(first[:, i]) / np.linalg.norm(second[:, j])

    assert result.forward.tolist() == [True] * 8 + [False] * 8
    for i, j, value, forward in zip(*result, strict=True):
        assert value == pytest.approx(cosine(i, j))
        candidates = [cosine(i, k) for k in range(16)] if forward else [cosine(k, j) for k in range(16)]
        assert value == pytest.approx(max(candidates))


def test_positions_encoded_by_color_are_matched_correctly(tmp_path: Path) -> None:
    paths = [write_gradient(tmp_path / f"{i}.png", 200 + 8 * i) for i in range(4)]
    row = matches([fake_model(color_tokens)], paths, SMALL).rows[0]
    assert row["cosine"] > 0.999
    assert row["within_one_patch"] == 100
    assert row["distance"] < 1


def test_a_match_to_a_position_outside_of_the_view_is_wrong(tmp_path: Path) -> None:
    (pair,) = ViewPairs([write_gradient(tmp_path / "a.png")], 0, 96)
    far = pair.b._replace(box=pair.b.box + 10_000)
    maps = encode(fake_model(color_tokens).runner, [pair.a.image, far.image]).feature_map
    assert match_distances(match_patches(*maps, 1.0), pair._replace(b=far), (6, 6), (6, 6)).min() > 6


def test_pairs_with_unreadable_images_are_skipped(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / f"{i}.png", i) for i in range(4)]
    unreadable = tmp_path / "unreadable.png"
    unreadable.write_bytes(b"")
    pairs = [(files[0], unreadable), (unreadable, files[1]), (files[2], files[3]), (files[1], files[1])]
    report = matches([fake_model(color_tokens)], pairs, MatchesOptions(size=32))
    assert list(report.measures) == ["cosine"]
    assert report.title.endswith("2 pairs")
    assert len(report.settings["skipped"]) == 2
    assert report.rows[0]["distance"] is None
    with pytest.raises(ValueError, match="no pair"):
        matches([fake_model(color_tokens)], pairs[:2], MatchesOptions(size=32))


def test_reading_pairs(tmp_path: Path) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_text("a b.jpg\tc.jpg\n\n/x/d.jpg\te.jpg\n")
    assert read_pairs(listed) == [(tmp_path / "a b.jpg", tmp_path / "c.jpg"), (Path("/x/d.jpg"), tmp_path / "e.jpg")]
    for content, word in ((b"", "no pairs"), (b"a.jpg b.jpg\n", "line 1"), (b"\xff\xfe", "not a text file")):
        listed.write_bytes(content)
        with pytest.raises(ValueError, match=word):
            read_pairs(listed)


def test_lines_connect_equal_colors(tmp_path: Path) -> None:
    (pair,) = ViewPairs([write_gradient(tmp_path / "a.png")], 0, 96)
    result = match_patches(*encode(fake_model(color_tokens).runner, [pair.a.image, pair.b.image]).feature_map, 0.2)
    axis = Figure().subplots()
    match_plot._draw_pair(axis, pair, result, (6, 6), np.zeros((len(result.a), 4)))
    canvas = np.asarray(axis.images[0].get_array()).astype(int)
    segments = axis.collections[1].get_segments()
    assert len(segments) == len(result.a)
    for (x0, y0), (x1, y1) in segments:
        assert x0 < 96 < 96 + match_plot.GAP <= x1
        assert np.abs(canvas[round(y0), round(x0)] - canvas[round(y1), round(x1)]).max() < 48  # about a patch


def test_lines_are_blue_where_right_and_orange_where_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(match_plot, "save_figure", lambda figure, _: figures.append(figure))
    paths = [write_gradient(tmp_path / "a.png"), write_noise(tmp_path / "b.png", 0)]
    model = fake_model(color_tokens)
    match_plot.draw_matches([model], paths, tmp_path / "matches.png", SMALL, lines=12)
    drawn = 0
    for axis, pair in zip(figures[0].axes, ViewPairs(paths, 0, common_size([model], SMALL.size)), strict=True):
        maps = feature_maps(model, pair)
        chosen = match_plot._subset(match_patches(*maps, SMALL.match_fraction), 12)
        right = match_distances(chosen, pair, maps[0].shape[1:], maps[0].shape[1:]) <= 1 + 1e-6
        colors = [to_hex(color) for color in axis.collections[1].get_colors()]
        assert colors == [RIGHT if one else WRONG for one in right]
        dashes = [dash is not None for _, dash in axis.collections[1].get_linestyle()]
        assert dashes == (~right).tolist()  # told apart in gray, too
        assert axis.get_xlabel() == f"{pair.name}: {right.sum()} of 12 right"
        drawn += right.sum()
    assert [axis.get_xlabel().split(":")[0] for axis in figures[0].axes] == ["a.png", "b.png"]
    assert 12 <= drawn < 24  # all of the gradient, and not all of the noise
    match_plot.draw_matches([model], [(paths[0], paths[1])], tmp_path / "matches.png", SMALL, lines=12)
    assert figures[1].axes[-1].get_ylabel() == "cosine"  # the truth is unknown: a color bar
    assert figures[1].axes[0].get_xlabel() == "a.png and b.png"


def test_the_figure_contains_the_images(tmp_path: Path) -> None:
    paths = [write_gradient(tmp_path / "a.png"), write_noise(tmp_path / "b.png", 0)]
    match_plot.draw_matches(
        [fake_model(color_tokens, "one"), fake_model(color_tokens, "two")],
        paths,
        tmp_path / "new" / "matches.png",
        SMALL,
        lines=5,
    )
    picture = np.asarray(Image.open(tmp_path / "new" / "matches.png").convert("RGB"))
    assert picture.shape[1] > picture.shape[0]
    assert (picture[..., 2] == 200).mean() > 0.02  # the blue of the gradient


def test_chance_against_random_patches(tmp_path: Path) -> None:
    """The mean over all pairs of patches is near that of uniformly drawn patches, in both directions."""
    (pair,) = ViewPairs([write_gradient(tmp_path / "a.png")], 0, 96)
    rng, n = np.random.default_rng(0), 20_000
    distances = []
    for forward in (True, False):
        random = PatchMatches(*rng.integers(0, 36, (2, n)), np.zeros(n), np.full(n, forward))
        distances.append(match_distances(random, pair, (6, 6), (6, 6)))
    distance, hits = chance_of_matches(pair, (6, 6))
    assert distance == pytest.approx(np.mean(distances), rel=0.02)
    assert hits == pytest.approx(100 * (np.concatenate(distances) <= 1).mean(), rel=0.1)
    chance = matches([fake_model(color_tokens)], [write_gradient(tmp_path / "a.png")], SMALL).chance
    assert chance == {"distance": pytest.approx(distance), "within_one_patch": pytest.approx(hits)}


def test_models_of_several_patch_sizes_have_one_unit_of_distance(tmp_path: Path) -> None:
    """Distances are in patches of the coarsest grid, so that they do not grow with the fineness of a model's own."""
    paths = [write_gradient(tmp_path / "a.png"), write_noise(tmp_path / "b.png", 0)]
    models = [fake_model(color_tokens, str(patch), patch) for patch in (8, 32)]
    report = matches(models, paths, SMALL)
    assert report.settings["grid"] == [3, 3]
    assert report.chance["distance"] == pytest.approx(
        np.mean([chance_of_matches(pair, (3, 3))[0] for pair in ViewPairs(paths, 0, 96)])
    )
    fine = matches(models[:1], paths, SMALL).rows[0]["distance"]
    assert report.rows[0]["distance"] == pytest.approx(fine / 4)
    assert report.rows[1]["distance"] == matches(models[1:], paths, SMALL).rows[0]["distance"]


def test_edge_cases(tmp_path: Path) -> None:
    report = matches([fake_model(color_tokens)], write_edge_cases(tmp_path), MatchesOptions(size=32))
    assert report.settings["images"] == 3
