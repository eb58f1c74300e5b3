import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_models import colors, constant, fake, noise, odd_ones
from PIL import Image

from gtsa_kit.evaluation.rotation import Settings, probe, rotation

pytest.importorskip("sklearn", reason="the extra `eval` is not installed")
SMALL = Settings(size=32)


@pytest.fixture(scope="module")
def cornered(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noise with a red upper left quarter."""
    folder = tmp_path_factory.mktemp("cornered")
    for seed in range(10):
        pixels = np.array(Image.open(noise(folder / f"{seed}.png", seed))) // 3
        pixels[: pixels.shape[0] // 2, : pixels.shape[1] // 2] = (255, 0, 0)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def where_red(patches: np.ndarray) -> np.ndarray:
    """Every token: how red each cell of the 2 x 2 is."""
    return np.broadcast_to(patches[0].reshape(-1, 1, 1), (4, *patches.shape[1:]))


def test_what_can_and_cannot_tell_a_turn(cornered: list[Path]) -> None:
    models = [fake(where_red, "sees"), fake(colors, "mean color"), fake(constant, "nothing")]
    report = rotation(models, cornered, SMALL, [0, 1])
    rows = {(row["model"], row["seed"]): row for row in report.rows}
    for seed in (0, 1):
        assert rows["sees", seed]["accuracy"] == 100
        assert rows["mean color", seed]["accuracy"] == pytest.approx(25, abs=1)  # four turns, one embedding
        assert rows["nothing", seed]["accuracy"] == 25
        assert (rows["sees", seed]["train"], rows["sees", seed]["held_out"]) == (7, 3)
        # Wilson's interval of 12 of 12, from its published form: n / (n + z^2) to 1.
        assert rows["sees", seed]["accuracy_low"] == pytest.approx(100 * 12 / (12 + 1.96**2), rel=1e-3)
        assert rows["sees", seed]["accuracy_high"] == pytest.approx(100)


def test_no_image_is_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import linear_model

    given = {}

    class Spy(linear_model.LogisticRegression):
        def fit(self, rows: np.ndarray, labels: np.ndarray) -> "Spy":
            given["fit"] = rows[:, 0].copy()
            return super().fit(rows, labels)

        def predict(self, rows: np.ndarray) -> np.ndarray:
            given["asked"] = rows[:, 0].copy()
            return super().predict(rows)

    monkeypatch.setattr(linear_model, "LogisticRegression", Spy)
    vectors = np.random.default_rng(0).standard_normal((12, 4, 3))
    vectors[:, :, 0] = np.arange(12)[:, None]  # names the image
    held = []
    for seed in range(2):
        probe(vectors, Settings(held_out=0.25), seed)
        fitted, asked = (np.unique(given[side].round(6), return_counts=True) for side in ("fit", "asked"))
        assert (len(fitted[0]), len(asked[0])) == (9, 3)
        assert set(fitted[1]) == set(asked[1]) == {4}
        assert not set(fitted[0]) & set(asked[0])
        held.append(given["asked"])
    assert not np.allclose(*held)  # another seed, another split


def test_signs_of_collapse(cornered: list[Path]) -> None:
    collapsed, two = rotation([fake(constant, "a"), fake(lambda p: np.stack([p[0], p[1]]), "b")], cornered, SMALL).rows
    assert (collapsed["embedding_rank"], collapsed["token_rank"]) == (1, 1)
    assert collapsed["token_std"] == pytest.approx(0, abs=1e-3)
    assert 1 < two["token_rank"] <= 2


def test_odd_images_and_too_few(cornered: list[Path], tmp_path: Path) -> None:
    report = rotation([fake(colors)], odd_ones(tmp_path), SMALL)
    assert report.settings["images"] == 3
    assert len(report.settings["skipped"]) == 2
    with pytest.raises(ValueError, match="only one image"):
        rotation([fake(colors)], cornered[:1], SMALL)


def test_without_scikit_learn_it_says_what_to_install(cornered: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"pip install 'gtsa-kit\[eval\]'"):
        rotation([fake(colors)], cornered, SMALL)
