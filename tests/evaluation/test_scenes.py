from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_models import noise

from gtsa_kit.data.image_io import open_image
from gtsa_kit.evaluation.models import Model, open_models, random_encoder, random_runner
from gtsa_kit.evaluation.scenes import Scenes, common_size, encode, spread
from gtsa_kit.export import Runner
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.encoder import normalize

FIXED = ExportOptions(batch=Range(3, 3), height=Range(64, 64), width=Range(64, 64))


def opened(options: ExportOptions) -> Runner:
    encoder = random_encoder("vit_test", 0)
    manifest = build_manifest(encoder, "pytorch", options, {}, "")
    return TorchRunner(ExportGraph(encoder, options), manifest, torch.device("cpu"))


@pytest.mark.parametrize(
    "options", [ExportOptions(), ExportOptions(input="uint8"), ExportOptions(batch=Range(2, 5)), FIXED]
)
def test_views_go_in_as_images_do_whatever_the_model_takes(options: ExportOptions) -> None:
    views = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 3, 64, 64), dtype=np.uint8))
    found = encode(opened(options), list(views))
    assert (found.embedding.dtype, found.embedding.shape) == (np.float64, (11, 64))
    with torch.inference_mode():
        expected = random_encoder("vit_test", 0)(normalize(views))
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)
    np.testing.assert_allclose(found.feature_map, expected.feature_map, atol=1e-4)


def test_a_size_that_all_models_take() -> None:
    fixed = Model("fixed", opened(FIXED), None)
    free = Model("free", random_runner("vit_test", 0, "cpu"), None)
    assert common_size([free], None) == 224
    assert common_size([free], 100) == 96
    assert common_size([free, fixed], None) == common_size([fixed, free], 64) == 64
    with pytest.raises(ValueError, match=r"fixed takes 64 x 64.*--size"):
        common_size([free, fixed], 96)


def test_scenes_are_upright_images_and_progress_is_told(tmp_path: Path) -> None:
    paths = [noise(tmp_path / "a.png", 0), tmp_path / "gone.png", noise(tmp_path / "b.png", 1)]
    told = []
    scenes = Scenes(paths, 4, lambda what, done, total: told.append((what, done, total)))
    found = list(scenes)
    assert [scene.path for scene in found] == [paths[0], paths[2]]
    np.testing.assert_array_equal(found[0].pixels.permute(1, 2, 0).numpy(), np.asarray(open_image(paths[0])))
    assert found[0].whole == [0, 0, 90, 70]
    assert [done for _, done, _ in told] == [1, 2, 3]
    assert scenes.settings()["skipped"][0]["path"] == str(paths[1])


def test_spread() -> None:
    assert spread(list(range(10)), 3) == [0, 4, 9]
    assert spread([1, 2], 5) == [1, 2]


def test_a_model_named_twice_is_there_once(tiny_run: Path) -> None:
    models = open_models([tiny_run, tiny_run], ["vit_test", "vit_test"], device="cpu")
    assert [model.name for model in models] == [tiny_run.name, "random vit_test"]
