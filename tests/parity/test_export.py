"""The export command: autoselection, all formats, failing int8, imported checkpoints and frameworks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from helpers import processes
from helpers.paths import SCENES

from gtsa_kit.cli.export import export
from gtsa_kit.cli.support import export_steps
from gtsa_kit.export import load, parity
from gtsa_kit.export.benchmark import autoselect, workers
from gtsa_kit.export.benchmark.autoselect import ExportCandidate, candidates
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.tolerances import Tolerance

pytestmark = pytest.mark.usefixtures("traces")


def stderr_text(capsys: pytest.CaptureFixture[str]) -> str:
    """Return standard error as one line."""
    return " ".join(capsys.readouterr().err.split())


def test_autoselect_keeps_the_fastest_that_passes_the_gate(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        ExportCandidate("torchscript", "fp32"),
        ExportCandidate("onnx", "fp32"),
        ExportCandidate("torchscript", "bf16"),
    ]
    monkeypatch.setattr(export_steps, "candidates", lambda *_: [[options[2]], options[:2]])
    monkeypatch.setitem(parity.TOLERANCES, "bf16", Tolerance(0, 0, 1, 1))
    monkeypatch.setattr(workers, "START_METHOD", processes.START_METHOD)
    monkeypatch.setattr(autoselect, "SECONDS", 0.2)
    export(tiny_run, size="64", batch="2", out=tmp_path, as_json=True)
    printed = capsys.readouterr()
    assert "torchscript bf16 failed the parity gate" in " ".join(printed.err.split())
    result = json.loads(printed.out)
    assert result["failed"] == ["torchscript bf16"]
    assert {speed["name"] for speed in result["speeds"]} == {"torchscript fp32", "onnx fp32"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names in ({"encoder.onnx", "encoder.onnx.json"}, {"encoder.ts", "encoder.ts.json"})
    path = next(path for path in tmp_path.iterdir() if path.suffix != ".json")
    assert [artifact["path"] for artifact in result["artifacts"]] == [str(path)]
    assert read_manifest(path).parity.passed
    assert load(path).manifest.precision == "fp32"


def test_no_file_remains_when_no_format_passes_the_gate(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_steps, "candidates", lambda *_: [[ExportCandidate("torchscript", "fp32")]])
    monkeypatch.setitem(parity.TOLERANCES, "fp32", Tolerance(-1, -1, 2, 2))
    with pytest.raises(SystemExit) as stopped:
        export(tiny_run, out=tmp_path / "new", as_json=True)
    assert stopped.value.code == 1
    assert json.loads(capsys.readouterr().out) == {"passed": False, "artifacts": []}
    assert not list((tmp_path / "new").iterdir())


def test_candidates_have_the_requested_precision() -> None:
    assert {c.precision for c in candidates("fp16")[0]} == {"fp16"}
    assert {c.file_format for c in candidates("int8")[0]} <= {"onnx", "openvino"}
    assert {c.precision for some in candidates() for c in some} <= {"fp16", "bf16", "fp32"}
    assert {c.precision for c in candidates()[-1]} == {"fp32"}


def test_all_formats_at_once(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    export(tiny_run, format_name="all", precision="fp16", layers="1", size="64x96", out=tmp_path, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert len(result["artifacts"]) == 4
    for artifact in result["artifacts"]:
        path = Path(artifact["path"])
        assert artifact["passed"] is True
        assert artifact["manifest"] == read_manifest(path).model_dump(mode="json")
        parts = {path, path.with_suffix(".bin")} if path.suffix == ".xml" else {path}
        assert artifact["size"] == sum(part.stat().st_size for part in parts)
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".json"} == {
        *("encoder.onnx", "encoder.ts", "encoder.pt2", "encoder.xml", "encoder.bin")
    }
    for name in ("encoder.onnx", "encoder.ts", "encoder.pt2", "encoder.xml"):
        manifest = read_manifest(tmp_path / name)
        assert (manifest.precision, manifest.layers, manifest.axes.keys()) == ("fp16", (1,), {"batch"})
    with pytest.raises(ValueError, match="--force"):
        export(tiny_run, format_name="all", out=tmp_path)


def test_failing_int8_names_the_sensitive_layers(
    tiny_run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match="--calibrate"):
        export(tiny_run, format_name="onnx", precision="int8", out=tmp_path)
    monkeypatch.setitem(parity.TOLERANCES, "int8", Tolerance(1e-6, 1e-6, 1, 1))
    with pytest.raises(SystemExit) as stopped:
        export(
            tiny_run, format_name="onnx", precision="int8", calibrate=images, size="64x96", out=tmp_path, as_json=True
        )
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    output, result = " ".join(printed.err.split()), json.loads(printed.out)
    assert result["passed"] is False
    assert [artifact["passed"] for artifact in result["artifacts"]] == [False]
    for word in ("blocks.0.qkv", "blocks.1.mlp.fc2", "differs from the encoder", "worst on"):
        assert word in output
    assert read_manifest(tmp_path / "encoder.onnx").target["calibration"] == "20 images of images0"


def test_checkpoint_of_another_tool_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=64, depth=2, num_heads=2, num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    export(tmp_path / "theirs.pth", format_name="onnx", size="224", heads=2, mean="0.5,0.5,0.5", std="0.5,0.5,0.5")
    assert "skipped 2 keys of heads" in stderr_text(capsys)
    runner = load(tmp_path / "encoder.onnx")
    assert runner.manifest.preprocessing["mean"] == [0.5, 0.5, 0.5]
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = model.forward_features(images)[:, 1:]
    actual = torch.from_numpy(runner(images.numpy()).feature_map).flatten(2).transpose(1, 2)
    assert torch.allclose(actual, tokens, atol=2e-5)


def test_frameworks_are_formats(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tiny_run, format_name="timm", out=tmp_path / "timm", as_json=True)
    printed = capsys.readouterr()
    assert "parity passed" in printed.err
    (artifact,) = json.loads(printed.out)["artifacts"]
    assert artifact["folder"] == json.loads((tmp_path / "timm" / "gtsa.json").read_text())
    assert artifact["folder"]["parity"]["passed"]
    with pytest.raises(ValueError, match="--force"):
        export(tiny_run, format_name="timm", out=tmp_path / "timm")
    with pytest.raises(ValueError, match="auto, all, onnx"):
        export(tiny_run, format_name="tflite", out=tmp_path)


def test_verify_finds_the_source_beside_the_file(
    made: Callable[..., Path], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gtsa_kit.cli.verify import verify

    images = SCENES if SCENES.exists() else None
    shutil.copytree(made("onnx").parent, tmp_path, dirs_exist_ok=True)
    verify(tmp_path / "encoder.onnx", as_json=True)  # by the weights inside
    assert json.loads(capsys.readouterr().out)["passed"]
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    export(run, format_name="onnx", precision="fp16", size="64x96", images=images, out=tmp_path / "elsewhere")
    shutil.rmtree(run)
    capsys.readouterr()
    verify(tmp_path / "elsewhere" / "encoder.onnx")
    assert "passed the parity gate" not in stderr_text(capsys)
    for name in ("encoder.safetensors", "encoder.json"):
        shutil.copy(tiny_run / name, tmp_path / "elsewhere")
    verify(tmp_path / "elsewhere" / "encoder.onnx", images=images)
    assert "passed the parity gate" in stderr_text(capsys)
