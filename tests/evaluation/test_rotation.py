"""Rotation accuracy and collapse metrics of models with known features."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_models import color_tokens, constant_tokens, fake_model, write_edge_cases, write_noise
from PIL import Image

from gtsa_kit.evaluation.rotation import RotationOptions, probe_rotation, rotation

pytest.importorskip("sklearn", reason="the extra `eval` is not installed")
SMALL = RotationOptions(size=32)


@pytest.fixture(scope="module")
def cornered(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write images of noise with a red upper left quarter."""
    folder = tmp_path_factory.mktemp("cornered")
    for seed in range(10):
        pixels = np.array(Image.open(write_noise(folder / f"{seed}.png", seed))) // 3
        pixels[: pixels.shape[0] // 2, : pixels.shape[1] // 2] = (255, 0, 0)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def red_by_quarter(patches: np.ndarray) -> np.ndarray:
    """Return tokens with the red of each of the 2 x 2 patches."""
    return np.broadcast_to(patches[0].reshape(-1, 1, 1), (4, *patches.shape[1:]))


def test_models_that_can_and_cannot_predict_the_rotation(cornered: list[Path]) -> None:
    models = [
        fake_model(red_by_quarter, "red by quarter"),
        fake_model(color_tokens, "mean color"),
        fake_model(constant_tokens, "constant"),
    ]
    report = rotation(models, cornered, SMALL, [0, 1])
    rows = {(row["model"], row["seed"]): row for row in report.rows}
    for seed in (0, 1):
        assert rows["red by quarter", seed]["accuracy"] == 100
        assert rows["mean color", seed]["accuracy"] == pytest.approx(25, abs=1)  # four rotations, one embedding
        assert rows["constant", seed]["accuracy"] == 25
        assert (rows["red by quarter", seed]["train"], rows["red by quarter", seed]["held_out"]) == (7, 3)
        # Wilson's interval of 12 of 12, from its published form: n / (n + z^2) to 1.
        assert rows["red by quarter", seed]["accuracy_low"] == pytest.approx(100 * 12 / (12 + 1.96**2), rel=1e-3)
        assert rows["red by quarter", seed]["accuracy_high"] == pytest.approx(100)


def test_no_image_is_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import linear_model

    inputs = {}

    class Spy(linear_model.LogisticRegression):
        def fit(self, rows: np.ndarray, labels: np.ndarray) -> "Spy":
            inputs["fit"] = rows[:, 0].copy()
            return super().fit(rows, labels)

        def predict(self, rows: np.ndarray) -> np.ndarray:
            inputs["predict"] = rows[:, 0].copy()
            return super().predict(rows)

    monkeypatch.setattr(linear_model, "LogisticRegression", Spy)
    vectors = np.random.default_rng(0).standard_normal((12, 4, 3))
    vectors[:, :, 0] = np.arange(12)[:, None]  # identifies the image
    held_out = []
    for seed in range(2):
        probe_rotation(vectors, RotationOptions(held_out=0.25), seed)
        fitted, predicted = (np.unique(inputs[side].round(6), return_counts=True) for side in ("fit", "predict"))
        assert (len(fitted[0]), len(predicted[0])) == (9, 3)
        assert set(fitted[1]) == set(predicted[1]) == {4}
        assert not set(fitted[0]) & set(predicted[0])
        held_out.append(inputs["predict"])
    assert not np.allclose(*held_out)  # another seed, another split


def test_collapse_metrics(cornered: list[Path]) -> None:
    models = [fake_model(constant_tokens, "a"), fake_model(lambda p: np.stack([p[0], p[1]]), "b")]
    collapsed, two = rotation(models, cornered, SMALL).rows
    assert (collapsed["embedding_rank"], collapsed["token_rank"]) == (1, 1)
    assert collapsed["token_std"] == pytest.approx(0, abs=1e-3)
    assert 1 < two["token_rank"] <= 2


def test_edge_cases_and_too_few_images(cornered: list[Path], tmp_path: Path) -> None:
    report = rotation([fake_model(color_tokens)], write_edge_cases(tmp_path), SMALL)
    assert report.settings["images"] == 3
    assert len(report.settings["skipped"]) == 2
    with pytest.raises(ValueError, match="only one image"):
        rotation([fake_model(color_tokens)], cornered[:1], SMALL)


def test_without_scikit_learn_the_error_names_the_extra(cornered: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"pip install 'gtsa-kit\[eval\]'"):
        rotation([fake_model(color_tokens)], cornered, SMALL)
