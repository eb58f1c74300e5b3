"""Sensitivity to transformations, against a slow loop."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import color_tokens, constant_tokens, fake_model, write_edge_cases, write_noise

from gtsa_kit.evaluation.eval_images import EvalImages, encode
from gtsa_kit.evaluation.sensitivity import SensitivityOptions, sample_views, sensitivity

SMALL = SensitivityOptions(views=4, size=32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("noise")
    return [write_noise(folder / f"{seed}.png", seed) for seed in range(5)]


def test_against_a_slow_loop(paths: list[Path]) -> None:
    model = fake_model(lambda patches: np.concatenate([patches**2 / 100, patches[:1] * patches[1:2]]))
    row = sensitivity([model], paths, SMALL, [3]).rows[0]

    def variance(vectors: list[np.ndarray]) -> float:
        total = 0.0
        for dimension in range(len(vectors[0])):
            values = [float(vector[dimension]) for vector in vectors]
            mean = math.fsum(values) / len(values)
            total += math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return total

    untransformed = []
    variances: dict[str, list[float]] = {name: [] for name in SMALL.transformations}
    for image in EvalImages(paths, 3):
        views = sample_views(image, SMALL, 32)
        vectors = [encode(model.runner, [view]).embedding[0] for view in views]
        for index, name in enumerate(SMALL.transformations):
            variances[name].append(variance(vectors[4 * index : 4 * index + 4]))
        upright = (
            torch.nn.functional.interpolate(image.pixels[None].float(), (32, 32), mode="bicubic", antialias=True)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
        )
        untransformed.append(encode(model.runner, [upright[0]]).embedding[0])
    for name, values in variances.items():
        shares = [100 * value / variance(untransformed) for value in values]
        mean = sum(shares) / 5
        half = 1.96 * math.sqrt(sum((share - mean) ** 2 for share in shares) / 4) / math.sqrt(5)
        assert row[name] == pytest.approx(mean, rel=1e-3)
        assert row[f"{name}_low"] == pytest.approx(mean - half, rel=2e-3)
        assert row[f"{name}_high"] == pytest.approx(mean + half, rel=2e-3)


def test_scale_and_offset_of_features_do_not_matter(paths: list[Path]) -> None:
    models = [fake_model(color_tokens, "a"), fake_model(lambda patches: 7 * patches + 100, "b")]
    a, b = sensitivity(models, paths, SMALL).rows
    for name in SMALL.transformations:
        assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6)
    assert b["variance_images"] == pytest.approx(49 * a["variance_images"], rel=1e-4)


def test_the_mean_color_is_invariant_to_rotation_alone(paths: list[Path]) -> None:
    row = sensitivity([fake_model(color_tokens)], paths, SMALL).rows[0]
    assert row["rotation"] < 1e-6 < 1 < row["color"]  # a rotation moves pixels and changes none
    assert row["crop"] > 1


def test_a_constant_model_has_no_variance_to_compare_with(paths: list[Path]) -> None:
    row = sensitivity([fake_model(constant_tokens)], paths, SMALL).rows[0]
    for name in SMALL.transformations:
        assert row[f"{name}_variance"] == 0
        assert row[name] is None


def test_all_models_get_the_same_views_and_each_seed_others(paths: list[Path]) -> None:
    inputs = {}
    for seed in (0, 0, 1):
        models = [fake_model(color_tokens, "a"), fake_model(constant_tokens, "b")]
        sensitivity(models, paths, SMALL, [seed])
        first, second = (np.stack(model.runner.inputs) for model in models)
        np.testing.assert_array_equal(first, second)
        if seed in inputs:
            np.testing.assert_array_equal(first, inputs[seed])
        inputs[seed] = first
    assert not np.array_equal(inputs[0], inputs[1])


def test_the_views_of_an_image_do_not_depend_on_unreadable_images(paths: list[Path], tmp_path: Path) -> None:
    unreadable = tmp_path / "unreadable.png"
    unreadable.write_bytes(b"no")
    after = {image.index: sample_views(image, SMALL, 32) for image in EvalImages([paths[0], unreadable, paths[2]], 0)}
    before = {image.index: sample_views(image, SMALL, 32) for image in EvalImages([paths[0], paths[1], paths[2]], 0)}
    assert list(after) == [0, 2]
    torch.testing.assert_close(after[2], before[2], rtol=0, atol=0)


def test_one_transformation_at_a_time(paths: list[Path]) -> None:
    options = SensitivityOptions(("rotation", "color", "blur"), views=6, size=32)
    image = next(iter(EvalImages(paths, 0)))
    views = sample_views(image, options, 32)
    upright = next(
        view for view in (torch.rot90(views[0], k, (1, 2)) for k in range(4)) if _upright(view, image.pixels)
    )
    rotations = [torch.rot90(upright, k, (1, 2)) for k in range(4)]
    assert all(any(torch.equal(view, k) for k in rotations) for view in views[:6])
    assert len({bytes(view.numpy().tobytes()) for view in views[6:12]}) == 6
    for view in views[12:]:  # blurred: the same mean color, less detail
        assert abs(view.float().mean() - upright.float().mean()) < 2
        assert _detail(view) <= _detail(upright) + 0.1


def _upright(view: torch.Tensor, pixels: torch.Tensor) -> bool:
    small = torch.nn.functional.interpolate(pixels[None].float(), (32, 32), mode="area")[0]
    return float((small - view.float()).abs().mean()) < 8


def _detail(view: torch.Tensor) -> float:
    return float(view.float().diff(dim=1).abs().mean())


def test_edge_cases_are_measured_and_unreadable_images_counted(tmp_path: Path) -> None:
    report = sensitivity([fake_model(color_tokens)], write_edge_cases(tmp_path), SMALL)
    assert report.settings["images"] == 3
    assert [Path(item["path"]).name for item in report.settings["skipped"]] == ["empty.jpg", "truncated.png"]
    assert all(report.rows[0][name] >= 0 for name in SMALL.transformations)


def test_too_few_images_are_rejected(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two"):
        sensitivity([fake_model(color_tokens)], paths[:1], SMALL)
    (tmp_path / "no.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images can be read, first .*no\.jpg"):
        sensitivity([fake_model(color_tokens)], [tmp_path / "no.jpg"], SMALL)


@pytest.mark.parametrize("wrong", [{"views": 1}, {"transformations": ("shear",)}, {"transformations": ()}])
def test_wrong_options(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"variance|transformation"):
        SensitivityOptions(**wrong)
