from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import colors, fake, noise, odd_ones, ramp
from matplotlib.figure import Figure
from PIL import Image

from gtsa_kit.evaluation import match_lines
from gtsa_kit.evaluation.matches import Pairs, Settings, best_matches, distances, matches, read_pairs
from gtsa_kit.evaluation.scenes import encode
from gtsa_kit.methods.gtsa_losses import correspondence_loss

SMALL = Settings(matched=0.2, size=96)


@pytest.mark.parametrize("matched", [0.01, 0.3, 1.0])
def test_the_pairs_are_those_of_the_loss(matched: float) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 8, 5, 5))
    found = best_matches(*maps, matched)
    pair = torch.from_numpy(maps)[None]
    loss = correspondence_loss(pair, torch.empty(1, 0, 8, 5, 5, dtype=torch.float64), pair, matched)
    assert found.cosine.mean() == pytest.approx(-float(loss))


def test_each_pair_is_a_nearest_neighbor() -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 8, 4, 4))
    found = best_matches(a, b, 0.5)
    first, second = a.reshape(8, -1), b.reshape(8, -1)

    def cosine(i: int, j: int) -> float:
        return first[:, i] @ second[:, j] / np.linalg.norm(first[:, i]) / np.linalg.norm(second[:, j])

    assert found.forward.tolist() == [True] * 8 + [False] * 8
    for i, j, value, forward in zip(*found, strict=True):
        assert value == pytest.approx(cosine(i, j))
        others = [cosine(i, k) for k in range(16)] if forward else [cosine(k, j) for k in range(16)]
        assert value == pytest.approx(max(others))


def test_places_named_by_color_are_matched_where_they_are(tmp_path: Path) -> None:
    paths = [ramp(tmp_path / f"{i}.png", 200 + 8 * i) for i in range(4)]
    row = matches([fake(colors)], paths, SMALL).rows[0]
    assert row["cosine"] > 0.999
    assert row["right"] == 100
    assert row["apart"] < 1


def test_a_match_to_what_is_not_shown_is_wrong(tmp_path: Path) -> None:
    (pair,) = Pairs([ramp(tmp_path / "a.png")], 0, 96)
    far = pair.b._replace(box=pair.b.box + 10_000)
    maps = encode(fake(colors).runner, [pair.a.image, far.image]).feature_map
    assert distances(best_matches(*maps, 1.0), pair._replace(b=far), (6, 6)).min() > 6


def test_pairs_of_images_and_broken_ones_among_them(tmp_path: Path) -> None:
    files = [noise(tmp_path / f"{i}.png", i) for i in range(4)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    pairs = [(files[0], broken), (broken, files[1]), (files[2], files[3]), (files[1], files[1])]
    report = matches([fake(colors)], pairs, Settings(size=32))
    assert list(report.measures) == ["cosine"]
    assert report.title.endswith("2 pairs")
    assert len(report.settings["skipped"]) == 2
    assert report.rows[0]["apart"] is None
    with pytest.raises(ValueError, match="no pair"):
        matches([fake(colors)], pairs[:2], Settings(size=32))


def test_reading_pairs(tmp_path: Path) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_text("a b.jpg\tc.jpg\n\n/x/d.jpg\te.jpg\n")
    assert read_pairs(listed) == [(tmp_path / "a b.jpg", tmp_path / "c.jpg"), (Path("/x/d.jpg"), tmp_path / "e.jpg")]
    for content, word in ((b"", "no pairs"), (b"a.jpg b.jpg\n", "line 1"), (b"\xff\xfe", "not a text file")):
        listed.write_bytes(content)
        with pytest.raises(ValueError, match=word):
            read_pairs(listed)


def test_lines_join_like_colors(tmp_path: Path) -> None:
    (pair,) = Pairs([ramp(tmp_path / "a.png")], 0, 96)
    found = best_matches(*encode(fake(colors).runner, [pair.a.image, pair.b.image]).feature_map, 0.2)
    axis = Figure().subplots()
    match_lines._draw_pair(axis, pair, found, (6, 6), np.zeros((len(found.a), 4)))
    canvas = np.asarray(axis.images[0].get_array()).astype(int)
    segments = axis.collections[0].get_segments()
    assert len(segments) == len(found.a)
    for (x0, y0), (x1, y1) in segments:
        assert x0 < 96 < 96 + match_lines.GAP <= x1
        assert np.abs(canvas[round(y0), round(x0)] - canvas[round(y1), round(x1)]).max() < 48  # about a patch


def test_the_picture_shows_the_images(tmp_path: Path) -> None:
    paths = [ramp(tmp_path / "a.png"), noise(tmp_path / "b.png", 0)]
    match_lines.draw_matches(
        [fake(colors, "one"), fake(colors, "two")], paths, tmp_path / "new" / "matches.png", SMALL, lines=5
    )
    picture = np.asarray(Image.open(tmp_path / "new" / "matches.png").convert("RGB"))
    assert picture.shape[1] > picture.shape[0]
    assert (picture[..., 2] == 200).mean() > 0.02  # the ramp's blue


def test_odd_images(tmp_path: Path) -> None:
    report = matches([fake(colors)], odd_ones(tmp_path), Settings(size=32))
    assert report.settings["images"] == 3
