"""`gtsa verify FOLDER`: models of a Triton repository, and checkpoints for other frameworks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import gtsa_kit
from gtsa_kit.cli.export import export
from gtsa_kit.export.folder_report import read_folder_report, write_folder_report

Verify = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def verify(gtsa_here: Callable, few: Path) -> Verify:
    """Run `gtsa verify --json`; return the exit code, the result and standard error."""

    def run(folder: Path, *options: object) -> tuple[int, dict[str, Any], str]:
        done = gtsa_here("verify", folder, "--images", few, "--json", *options)
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    return run


@pytest.fixture(scope="module")
def repository(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an encoder of float images, and one of uint8 images as an ensemble."""
    folder = tmp_path_factory.mktemp("repository")
    export(tiny_onnx, format_name="triton", out=folder, name="floats")
    export(tiny_onnx, format_name="triton", out=folder, name="bytes", input_type="uint8")
    return folder


@pytest.fixture(scope="module")
def frameworks(tiny_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a folder for timm inside, as the default of --out puts it."""
    run = tmp_path_factory.mktemp("frameworks") / "run"
    shutil.copytree(tiny_run, run)
    export(run, format_name="timm", images=few)
    return run


@pytest.mark.parametrize("name", ["floats", "bytes"])
def test_the_file_that_triton_serves_is_compared_with_the_encoder(repository: Path, verify: Verify, name: str) -> None:
    code, result, err = verify(repository / name)
    assert (code, result["passed"]) == (0, True)
    assert [check["name"] for check in result["checks"]] == ["content"]
    assert result["graph_parity"]["passed"]
    assert "not run in a Triton server" in result["not_checked"]
    assert f"{repository / name} passed the parity gate" in err


def test_a_repository_of_several_models_asks_for_one(repository: Path, verify: Verify, tmp_path: Path) -> None:
    code, _, err = verify(repository)
    assert code == 2
    assert "several models (bytes, floats)" in err
    shutil.copytree(repository / "floats", tmp_path / "one" / "floats")
    assert verify(tmp_path / "one")[1]["graph_parity"]["passed"]
    code, _, err = verify(tmp_path)
    assert code == 2
    assert "holds no gtsa.json" in err


@pytest.mark.parametrize("file", ["config.pbtxt", "1/model.onnx"])
def test_a_changed_file_of_a_triton_model_fails(repository: Path, verify: Verify, tmp_path: Path, file: str) -> None:
    shutil.copytree(repository, tmp_path / "models")
    with open(tmp_path / "models" / "floats" / file, "ab") as changed:
        changed.write(b"\n")
    code, result, err = verify(tmp_path / "models" / "floats")
    assert (code, result["passed"], result["graph_parity"]) == (1, False, None)
    assert f"failed a check: content: {file} was changed after its export" in err


def test_a_checkpoint_for_timm_is_loaded_and_compared(frameworks: Path, verify: Verify, tmp_path: Path) -> None:
    code, result, _ = verify(frameworks / "timm")
    assert (code, result["passed"], result["not_checked"]) == (0, True, "")
    assert result["graph_parity"]["runtime"].startswith("timm ")
    assert str(frameworks) not in (frameworks / "timm" / "gtsa.json").read_text()  # the folder is handed on
    shutil.copytree(frameworks / "timm", tmp_path / "alone" / "timm")
    code, result, _ = verify(tmp_path / "alone" / "timm")
    assert (code, result["passed"], result["graph_parity"]) == (0, True, None)
    assert "not compared with the float32 encoder: the weights" in result["not_checked"]
    assert verify(tmp_path / "alone" / "timm", "--against", frameworks)[1]["graph_parity"]["passed"]
    code, _, err = verify(frameworks / "timm", "--provider", "cpu")
    assert code == 2
    assert "omit --provider" in err


def test_other_weights_in_a_checkpoint_fail_the_gate(frameworks: Path, verify: Verify, tmp_path: Path) -> None:
    """Digests of the changed files are written too, so that the comparison alone can notice."""
    folder = tmp_path / "run" / "timm"
    shutil.copytree(frameworks, tmp_path / "run")
    weights = load_file(folder / "model.safetensors")
    weights["blocks.0.mlp.fc1.weight"] = -weights["blocks.0.mlp.fc1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_folder_report(folder, read_folder_report(folder))
    code, result, err = verify(folder)
    assert (code, result["passed"]) == (1, False)
    assert result["checks"][0]["passed"]
    assert "differs from the encoder" in err


def test_folders_are_verified_from_python(repository: Path, frameworks: Path, few: Path) -> None:
    assert gtsa_kit.verify(repository / "bytes", images=few).passed
    report = gtsa_kit.verify(frameworks / "timm", images=few)
    assert report.passed
    assert report.runtime != gtsa_kit.verify(repository / "floats", images=few).runtime
    with pytest.raises(ValueError, match="several models"):
        gtsa_kit.verify(repository)


def test_a_changed_folder_is_refused_from_python(frameworks: Path, few: Path, tmp_path: Path) -> None:
    folder = tmp_path / "timm"
    shutil.copytree(frameworks / "timm", folder)
    file = next(folder.glob("*.safetensors"))
    weights = load_file(file)
    weights["blocks.1.mlp.fc2.weight"] *= 1.01
    save_file(weights, file)
    with pytest.raises(ValueError, match="was changed after its export"):
        gtsa_kit.verify(folder, frameworks, images=few)
