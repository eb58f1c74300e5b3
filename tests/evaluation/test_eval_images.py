"""Images of an evaluation, their sizes and their encoding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import write_noise

from gtsa_kit.data.image_io import open_image
from gtsa_kit.evaluation.eval_images import EvalImages, common_size, encode, evenly_spaced, fit_size
from gtsa_kit.evaluation.models import Model, open_models, random_encoder, random_runner
from gtsa_kit.export import Runner
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.preprocessing import Preprocessing

FIXED = ExportOptions(batch=Range(3, 3), height=Range(64, 64), width=Range(64, 64))


def open_runner(options: ExportOptions) -> Runner:
    encoder = random_encoder("vit_test", 0)
    manifest = build_manifest(encoder, "pytorch", options, {}, "")
    return TorchRunner(ExportGraph(encoder, options), manifest, torch.device("cpu"))


@pytest.mark.parametrize(
    "options", [ExportOptions(), ExportOptions(input="uint8"), ExportOptions(batch=Range(2, 5)), FIXED]
)
def test_views_are_encoded_like_images_by_any_model(options: ExportOptions) -> None:
    views = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 3, 64, 64), dtype=np.uint8))
    results = encode(open_runner(options), list(views))
    assert (results.embedding.dtype, results.embedding.shape) == (np.float64, (11, 64))
    with torch.inference_mode():
        expected = random_encoder("vit_test", 0)(normalize(views, Preprocessing()))
    np.testing.assert_allclose(results.embedding, expected.embedding, atol=1e-5)
    np.testing.assert_allclose(results.feature_map, expected.feature_map, atol=1e-4)


def test_a_size_that_all_models_take() -> None:
    fixed = Model("fixed", open_runner(FIXED), None)
    free = Model("free", random_runner("vit_test", 0, "cpu"), None)
    assert common_size([free], None) == 224
    assert common_size([free], 100) == 96
    assert common_size([free, fixed], None) == common_size([fixed, free], 64) == 64
    with pytest.raises(ValueError, match=r"fixed accepts 64 x 64.*--size"):
        common_size([free, fixed], 96)


def test_images_are_upright_and_progress_is_reported(tmp_path: Path) -> None:
    paths = [write_noise(tmp_path / "a.png", 0), tmp_path / "gone.png", write_noise(tmp_path / "b.png", 1)]
    calls = []
    images = EvalImages(paths, 4, lambda *call: calls.append(call))
    results = list(images)
    assert [image.path for image in results] == [paths[0], paths[2]]
    np.testing.assert_array_equal(results[0].pixels.permute(1, 2, 0).numpy(), np.asarray(open_image(paths[0])))
    assert results[0].full_box == [0, 0, 90, 70]
    assert [done for _, done, _ in calls] == [1, 2, 3]
    assert images.report_settings()["skipped"][0]["path"] == str(paths[1])


def test_evenly_spaced() -> None:
    assert evenly_spaced(list(range(10)), 3) == [0, 4, 9]
    assert evenly_spaced([1, 2], 5) == [1, 2]


def test_a_repeated_model_is_opened_once(tiny_run: Path) -> None:
    models = open_models([tiny_run, tiny_run], ["vit_test", "vit_test"], device="cpu")
    assert [model.name for model in models] == [tiny_run.name, "random vit_test"]


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (336, 448)), ((100, 1000), (448, 48)), ((1, 5000), (448, 16))]
)
def test_fit_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_size(*size, 448, 16) == expected
