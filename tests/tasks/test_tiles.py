"""Sliding windows against blending of the whole image at once."""

import tracemalloc
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.task_models import LABELS, save_random_task, task_spec

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_spec import Label
from gtsa_kit.tasks import tiles
from gtsa_kit.tasks.masks import class_numbers
from gtsa_kit.tasks.predictor import Predictor, open_predictor
from gtsa_kit.tasks.tiles import Tiling, choose_tiling, tiled_mask, window_starts


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return open_predictor(save_random_task(tmp_path_factory.mktemp("run"), task_spec("linear")), LoadOptions("cpu"))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalized(predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
    mean, std = (np.array(predictor.manifest.preprocessing[name]) for name in ("mean", "std"))
    return ((pixels / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]


@pytest.mark.parametrize(("length", "tile", "overlap"), [(5, 8, 2), (8, 8, 2), (9, 8, 2), (100, 8, 0), (100, 8, 7)])
def test_windows_cover_every_pixel_once_or_more_and_end_with_the_side(length: int, tile: int, overlap: int) -> None:
    starts = window_starts(length, tile, overlap)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    assert all(after - before <= tile - overlap for before, after in pairwise(starts))


def test_an_image_of_one_window_is_predicted_as_a_whole(predictor: Predictor) -> None:
    image = noise(48, 64)
    logits = predictor(normalized(predictor, image)).logits
    assert logits is not None
    assert (tiled_mask(image, predictor, Tiling(64, 16), 4) == class_numbers(logits[0], (48, 64))).all()


@pytest.mark.parametrize("overlap", [0, 8, 24])
@pytest.mark.parametrize("size", [(70, 133), (20, 90), (1, 1), (32, 32)])
def test_windows_are_blended_as_on_the_whole_image(
    predictor: Predictor, size: tuple[int, int], overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle pads the image, adds weighted logits of each window to maps of the whole image, and divides."""
    image, tile = noise(*size), 32
    sides = [min(tile, -(-n // 16) * 16) for n in size]
    padded = np.pad(image, [(0, max(0, sides[0] - size[0])), (0, max(0, sides[1] - size[1])), (0, 0)], mode="edge")
    total, weight = np.zeros((len(LABELS), *padded.shape[:2])), np.zeros(padded.shape[:2])
    ramps = [np.minimum(1, np.minimum(np.arange(n) + 1, n - np.arange(n)) / (overlap + 1)) for n in sides]
    for top in window_starts(padded.shape[0], sides[0], min(overlap, sides[0] - 1)):
        for left in window_starts(padded.shape[1], sides[1], min(overlap, sides[1] - 1)):
            where = np.s_[top : top + sides[0], left : left + sides[1]]
            logits = predictor(normalized(predictor, padded[where])).logits
            assert logits is not None
            total[:, *where] += logits[0] * np.outer(*ramps)
            weight[where] += np.outer(*ramps)
    best = np.sort(total / weight, axis=0)
    clear = (best[-1] - best[-2] > 1e-4)[: size[0], : size[1]]
    expected = (total / weight).argmax(0)[: size[0], : size[1]]
    mask = tiled_mask(image, predictor, Tiling(tile, overlap), 3)
    assert mask.shape == size
    assert (mask == expected)[clear].all()
    assert clear.mean() > 0.99
    monkeypatch.setattr(tiles, "STRIP_BYTES", 1)  # strips as narrow as a window
    assert (tiled_mask(image, predictor, Tiling(tile, overlap), 3) == mask).all()


@dataclass(frozen=True)
class Stripes(Predictor):
    """Predictor that needs no time: the class is the brightness of a pixel."""

    def __call__(self, images: np.ndarray) -> TaskOutput:
        assert len(images) <= self.batch_limit(images[0].size // 3)
        levels = np.linspace(-2.5, 2.5, len(self.labels), dtype=np.float32)
        return TaskOutput(-np.abs(images[:, :1] - levels[None, :, None, None]), None)


def test_memory_of_a_wide_image_does_not_grow_with_its_size(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tuple(Label(i, str(i), (i, i, i)) for i in range(24))
    fake = Stripes(predictor.runner, "segment", labels, None, "")
    monkeypatch.setattr(tiles, "STRIP_BYTES", 4 << 20)
    monkeypatch.setattr("gtsa_kit.tasks.predictor.BATCH_BYTES", 4 << 20)
    image = np.zeros((130, 20_000, 3), np.uint8)
    image[:, 7_000:] = 255
    tracemalloc.start()
    mask = tiled_mask(image, fake, Tiling(128, 32), 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.shape == (130, 20_000)
    assert (mask[:, :6_900] == mask[0, 0]).all()
    assert (mask[:, 7_100:] == mask[0, -1]).all()
    assert mask[0, 0] != mask[0, -1]
    whole = 4 * len(labels) * image.shape[0] * image.shape[1]
    assert peak < 25 << 20 < whole / 8, f"{peak >> 20} MiB"


def test_sizes_that_the_model_does_not_take_are_refused(predictor: Predictor) -> None:
    manifest: Manifest = predictor.manifest
    assert choose_tiling(manifest, 64, None) == Tiling(64, 16)
    with pytest.raises(ValueError, match=r"--tile 50: height must be .*multiples of 16"):
        choose_tiling(manifest, 50, None)
    with pytest.raises(ValueError, match="--overlap must be from 0 to below --tile 64, got 64"):
        choose_tiling(manifest, 64, 64)


def test_logits_that_are_not_finite_are_an_error_of_the_image(predictor: Predictor, tmp_path: Path) -> None:
    from gtsa_kit.tasks.predict import predict

    class Broken(Predictor):
        def __call__(self, images: np.ndarray) -> TaskOutput:
            return TaskOutput(np.full((len(images), len(self.labels), *images.shape[2:]), np.nan, np.float32), None)

    broken = Broken(predictor.runner, "segment", predictor.labels, None, "")
    for options in ({}, {"tile": 32}):
        failed: list[tuple[str, str]] = []
        assert not list(predict(broken, [noise(40, 40)], on_unreadable=lambda *x: failed.append(x), **options))  # noqa: B023
        assert failed == [("0", "the model's logits are not finite (NaN or infinity)")]
