from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import colors, constant, fake, noise, odd_ones, ramp

from gtsa_kit.data.augment import crop_and_rotate
from gtsa_kit.evaluation.correspondence import CONDITIONS, Settings, View, chance, correspondence, draw, points
from gtsa_kit.evaluation.scenes import Scenes
from gtsa_kit.geometry import map_points_between_views

SMALL = Settings(size=96)


@pytest.mark.parametrize("turn_a", range(4))
@pytest.mark.parametrize("turn_b", range(4))
def test_carried_points_by_painting_a_marker_and_finding_it(turn_a: int, turn_b: int) -> None:
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    image[:, 93:98, 140:145] = 255
    boxes = torch.tensor([[100, 50, 220, 160], [80, 70, 180, 190]])

    def find(box: torch.Tensor, turn: int) -> torch.Tensor:
        view = crop_and_rotate(image, box.tolist(), turn, 160)[0].double()
        y, x = torch.meshgrid(*[(torch.arange(160) + 0.5) / 160] * 2, indexing="ij")
        return torch.stack([(view * x).sum(), (view * y).sum()]) / view.sum()

    a, b = find(boxes[0], turn_a), find(boxes[1], turn_b)
    carried = map_points_between_views(a[None], boxes[0].double(), turn_a, boxes[1].double(), turn_b)[0]
    assert (160 * (carried - b)).abs().max() < 0.2  # pixels


def test_colors_that_name_their_place_are_found_under_all_conditions(tmp_path: Path) -> None:
    paths = [ramp(tmp_path / f"{width}.png", width) for width in (240, 200, 160)]
    rows = {row["model"]: row for row in correspondence([fake(colors, "places")], paths, SMALL, [0]).rows}
    for condition in CONDITIONS:
        assert rows["places"][condition] == 100
        assert rows["places"][f"{condition}_within_2"] == 100
        if condition.startswith("turn"):
            assert rows["places"][f"{condition}_within_0.5"] == 100
        assert rows["(chance)"][condition] < 25


def test_a_constant_model_guesses_the_first_cell(tmp_path: Path) -> None:
    rows = correspondence([fake(constant)], [noise(tmp_path / "a.png", 0)], SMALL).rows
    # Of a 6 x 6 grid in place, four cells lie within one patch of a corner cell.
    assert rows[0]["turn_180"] == pytest.approx(100 * 4 / 36)
    assert rows[0]["turn_90_within_0.5"] == pytest.approx(100 / 36)


def test_chance_by_a_slow_loop(tmp_path: Path) -> None:
    for scene in Scenes([noise(tmp_path / "a.png", 0)], 5):
        views, pairs = draw(scene, SMALL, 96)
    a, b = (views[place] for place in pairs["crop_turn"])
    _, truth = points(a, b, (6, 6))
    for radius, found in zip((0.5, 1, 2), chance(a, b, (6, 6), (0.5, 1, 2)), strict=True):
        hits = [
            abs((column + 0.5) - 6 * x) <= radius and abs((row + 0.5) - 6 * y) <= radius
            for x, y in truth
            for row in range(6)
            for column in range(6)
        ]
        assert found == pytest.approx(np.mean(hits), abs=1e-3)


def test_the_drawn_views_overlap_and_are_as_they_say(tmp_path: Path) -> None:
    for scene in Scenes([ramp(tmp_path / f"{i}.png") for i in range(8)], 0):
        views, pairs = draw(scene, SMALL, 96)
        a, b = views[0].box, views[4].box
        shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
        assert shared >= 0.1 * 240 * 180
        assert views[pairs["crop_turn"][1]].turn in (1, 2, 3)
        for turn in range(4):
            assert torch.equal(views[turn].image, torch.rot90(views[0].image, turn, (1, 2)))


def test_noise_is_an_option_and_changes_colors_alone(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png", 0)
    (plain,), (noisy,) = (list(Scenes([path], 0)) for _ in range(2))
    calm, _ = draw(plain, SMALL, 96)
    loud, _ = draw(noisy, Settings(size=96, photometric=True), 96)
    assert [(view.box.tolist(), view.turn) for view in calm] == [(view.box.tolist(), view.turn) for view in loud]
    assert any(not torch.equal(one.image, other.image) for one, other in zip(calm, loud, strict=True))


def test_views_without_a_common_center_show_nothing() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    a, b = (View(torch.tensor(box).double(), 0, image) for box in ([0, 0, 10, 10], [50, 50, 60, 60]))
    assert np.isnan(chance(a, b, (2, 2), (1.0,))).all()


def test_odd_images(tmp_path: Path) -> None:
    report = correspondence([fake(colors)], odd_ones(tmp_path), SMALL, [0, 1])
    assert len(report.rows) == 4
    assert report.settings["images"] == 3
    assert len(report.settings["skipped"]) == 2
