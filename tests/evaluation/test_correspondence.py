"""Correspondence recall against geometry and slow loops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import color_tokens, constant_tokens, fake_model, write_edge_cases, write_gradient, write_noise

from gtsa_kit.data.augment import crop_and_rotate
from gtsa_kit.evaluation.correspondence import (
    CONDITIONS,
    CorrespondenceOptions,
    View,
    chance_recall,
    correspondence,
    sample_views,
    shared_points,
)
from gtsa_kit.evaluation.eval_images import EvalImages
from gtsa_kit.geometry import map_points_between_views

SMALL = CorrespondenceOptions(size=96)


@pytest.mark.parametrize("rotation_a", range(4))
@pytest.mark.parametrize("rotation_b", range(4))
def test_mapped_points_against_the_centroid_of_a_painted_marker(rotation_a: int, rotation_b: int) -> None:
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    image[:, 93:98, 140:145] = 255
    boxes = torch.tensor([[100, 50, 220, 160], [80, 70, 180, 190]])

    def centroid(box: torch.Tensor, rotation: int) -> torch.Tensor:
        view = crop_and_rotate(image, box.tolist(), rotation, 160)[0].double()
        y, x = torch.meshgrid(*[(torch.arange(160) + 0.5) / 160] * 2, indexing="ij")
        return torch.stack([(view * x).sum(), (view * y).sum()]) / view.sum()

    a, b = centroid(boxes[0], rotation_a), centroid(boxes[1], rotation_b)
    mapped = map_points_between_views(a[None], boxes[0].double(), rotation_a, boxes[1].double(), rotation_b)[0]
    assert (160 * (mapped - b)).abs().max() < 0.2  # pixels


def test_colors_that_encode_the_position_have_full_recall_under_all_conditions(tmp_path: Path) -> None:
    paths = [write_gradient(tmp_path / f"{width}.png", width) for width in (240, 200, 160)]
    rows = {
        row["model"]: row for row in correspondence([fake_model(color_tokens, "positions")], paths, SMALL, [0]).rows
    }
    for condition in CONDITIONS:
        assert rows["positions"][condition] == 100
        assert rows["positions"][f"{condition}_recall_at_2"] == 100
        if condition.startswith("rotation"):
            assert rows["positions"][f"{condition}_recall_at_0.5"] == 100
        assert rows["(chance)"][condition] < 25


def test_a_constant_model_predicts_the_first_patch(tmp_path: Path) -> None:
    rows = correspondence([fake_model(constant_tokens)], [write_noise(tmp_path / "a.png", 0)], SMALL).rows
    # On a 6 x 6 grid four patches are within one patch of a corner patch.
    assert rows[0]["rotation_180"] == pytest.approx(100 * 4 / 36)
    assert rows[0]["rotation_90_recall_at_0.5"] == pytest.approx(100 / 36)


def test_chance_recall_against_a_slow_loop(tmp_path: Path) -> None:
    for image in EvalImages([write_noise(tmp_path / "a.png", 0)], 5):
        views, pairs = sample_views(image, SMALL, 96)
    a, b = (views[index] for index in pairs["crop_rotation"])
    _, truth = shared_points(a, b, (6, 6))
    for radius, recall in zip((0.5, 1, 2), chance_recall(a, b, (6, 6), (0.5, 1, 2)), strict=True):
        hits = [
            abs((column + 0.5) - 6 * x) <= radius and abs((row + 0.5) - 6 * y) <= radius
            for x, y in truth
            for row in range(6)
            for column in range(6)
        ]
        assert recall == pytest.approx(np.mean(hits), abs=1e-3)


def test_models_of_several_patch_sizes_have_one_unit_of_distance(tmp_path: Path) -> None:
    """A model with patches of 8 pixels has 4 times the radius, in its own patches, beside one with patches of 32."""
    paths, models = [write_noise(tmp_path / "a.png", 0)], [fake_model(color_tokens, str(p), p) for p in (8, 32)]
    fine, coarse, chance = correspondence(models, paths, SMALL).rows
    (alone, _) = correspondence(models[:1], paths, replace(SMALL, radius=4.0)).rows
    assert fine["crop_recall_at_1"] == alone["crop_recall_at_4"]
    _, chance_alone = correspondence(models[1:], paths, SMALL).rows
    assert (coarse["model"], chance["crop"]) == ("32", chance_alone["crop"])


def test_sampled_views_overlap_and_are_rotated(tmp_path: Path) -> None:
    for image in EvalImages([write_gradient(tmp_path / f"{i}.png") for i in range(8)], 0):
        views, pairs = sample_views(image, SMALL, 96)
        a, b = views[0].box, views[4].box
        shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
        assert shared >= 0.1 * 240 * 180
        assert views[pairs["crop_rotation"][1]].rotation in (1, 2, 3)
        for rotation in range(4):
            assert torch.equal(views[rotation].image, torch.rot90(views[0].image, rotation, (1, 2)))


def test_color_augmentation_changes_colors_alone(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.png", 0)
    (first,), (second,) = (list(EvalImages([path], 0)) for _ in range(2))
    plain, _ = sample_views(first, SMALL, 96)
    augmented, _ = sample_views(second, CorrespondenceOptions(size=96, color_augmentation=True), 96)
    assert [(view.box.tolist(), view.rotation) for view in plain] == [
        (view.box.tolist(), view.rotation) for view in augmented
    ]
    assert any(not torch.equal(one.image, other.image) for one, other in zip(plain, augmented, strict=True))


def test_views_without_a_shared_patch_center_have_no_recall() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    a, b = (View(torch.tensor(box).double(), 0, image) for box in ([0, 0, 10, 10], [50, 50, 60, 60]))
    assert np.isnan(chance_recall(a, b, (2, 2), (1.0,))).all()


def test_edge_cases(tmp_path: Path) -> None:
    report = correspondence([fake_model(color_tokens)], write_edge_cases(tmp_path), SMALL, [0, 1])
    assert len(report.rows) == 4
    assert report.settings["images"] == 3
    assert len(report.settings["skipped"]) == 2
