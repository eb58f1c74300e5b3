"""Models to compare: names, random weights and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gtsa_kit.evaluation.models import distinct_names, known_architecture, open_encoders, open_models, random_runner


def test_names_are_short_and_distinct(tmp_path: Path) -> None:
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"]
    for run in runs:
        run.mkdir(parents=True)
    files = [tmp_path / "a" / "run" / "encoder.onnx", tmp_path / "b" / "run" / "encoder.onnx"]
    assert distinct_names(runs) == ["a/run", "b/run", "other"]
    assert distinct_names(files) == ["a/run/encoder.onnx", "b/run/encoder.onnx"]
    assert distinct_names(files[:1]) == ["run/encoder.onnx"]
    names = distinct_names([*runs, *files])
    assert len(set(names)) == 5
    assert all(str(path).endswith(name) for path, name in zip([*runs, *files], names, strict=True))


def test_random_weights_follow_the_seed_and_keep_the_global_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    images = np.zeros((1, 3, 32, 32), np.float32)
    one, same, other = (random_runner("vit_test", seed)(images).embedding for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_a_baseline_has_the_architecture_and_the_preprocessing_of_the_first_model(tiny_run: Path) -> None:
    opened = open_models([tiny_run], device="cpu", baseline=True)
    assert [model.name for model in opened] == [tiny_run.name, "random vit_test"]
    trained, random = (model.runner for model in opened)
    assert random.manifest.architecture == trained.manifest.architecture
    assert random.preprocessing == trained.preprocessing
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    assert np.abs(trained(images).embedding - random(images).embedding).max() > 0.01
    named = open_models([tiny_run], ["vit_tiny"], device="cpu", baseline=True)
    assert [model.name for model in named] == [tiny_run.name, "random vit_tiny"]
    assert [name for name, _ in open_encoders([tiny_run], baseline=True)] == [tiny_run.name, "random vit_test"]


def test_graphs_of_other_projects_name_no_architecture() -> None:
    assert known_architecture({"name": "third-party graph"}) is None


def test_missing_and_unknown_models_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model given"):
        open_models([])
    with pytest.raises(ValueError, match="unknown architecture 'vit_huge'; choose"):
        open_models([], ["vit_huge"])
    with pytest.raises(ValueError, match="does not exist"):
        open_models([tmp_path / "gone"])
