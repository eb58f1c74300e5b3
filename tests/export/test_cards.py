"""Model card and bill of materials of artifacts, read back by the libraries of their formats."""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from gtsa_kit.export.cards.packages import packages_behind
from gtsa_kit.export.cards.runtimes import MinimumVersions, minimum_versions
from gtsa_kit.export.cards.shipped import Shipped
from gtsa_kit.export.cards.write import write_cards
from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.manifest_records import TaskScoreRecord
from gtsa_kit.files import sha256_of
from gtsa_kit.models.run_folder import ENCODER

pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")

SETTINGS = {
    "method": "gtsa",
    "data": "/secret/place/streets",
    "init": {"weights": "", "sha256": ""},
    "model": {"arch": "vit_test"},
    "train": {"seed": 1234, "steps": 77, "probe": "/secret/probe"},
}
LEARNING = {"loss": -0.61, "baseline": -0.4, "learned": True}
TRAINING = {"method": "gtsa", "images": 4711, "unreadable": 13, "steps": 77, "batch": 96, "learning": LEARNING}


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run with all facts that a card states, which started from weights with a card of their own."""
    folder, start = tmp_path / "street|1", tmp_path / "start"
    start.mkdir()
    (start / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# weights\n")
    (start / "weights.pth").write_bytes(b"weights")
    shutil.copytree(tiny_run, folder)
    description = json.loads((folder / "encoder.json").read_text())
    init = {"weights": str(start / "weights.pth"), "sha256": "ab" * 32}
    description["training"] = TRAINING | {"settings": SETTINGS | {"init": init}}
    (folder / "encoder.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def artifact(tiny_onnx: Path, run: Path) -> Shipped:
    """The graph of the run's encoder, in the run."""
    file = Path(shutil.copy(tiny_onnx, run / "encoder.onnx"))
    shutil.copy(manifest_path(tiny_onnx), manifest_path(file))
    return Shipped.of_file(file, read_manifest(file))


def read_card(path: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(path)  # raises for a header that is not the Hub's


def read_bill(path: Path) -> dict[str, Any]:
    """Return a bill of materials that the schema of CycloneDX takes."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = path.read_text(encoding="utf-8")
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, str(problem)[:500]
    content: dict[str, Any] = json.loads(text)
    return content


def write_sensitivity(run: Path) -> None:
    from gtsa_kit.evaluation.support.report import Report

    rows = [{"model": "street", "seed": 0, "color": 12.3456, "rotation": 78.9}]
    Report("sensitivity", "", {"color": "color %", "rotation": "rotation %"}, rows, {}).write(run / "eval")


def test_the_card_states_data_training_parity_and_licenses(artifact: Shipped, run: Path) -> None:
    write_cards(artifact, run)
    assert artifact.card_path == run / "encoder.onnx.card.md"
    card = read_card(artifact.card_path)
    assert card.data.library_name == "gtsa-kit"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.license is None
    text = card.text
    for line in (
        *("| training images | 4711 |", "| unreadable images, skipped | 13 |", "| source | `streets` |"),
        *("| method | gtsa |", "| seed | 1234 |", "| finished steps | 77 |", "| images per step | 96 |"),
        f"| weights to start from | `weights.pth`, SHA-256 `{'ab' * 32}` |",
        "| loss of the last rows | -0.61, constant baseline -0.4: learned |",
        "`weights.pth`, have the license: bsd-3-clause",
        f"| `encoder.onnx` | `{sha256_of(artifact.path)}` |",
        "train.seed: 1234",
    ):
        assert line in text, line
    assert artifact.parity is not None
    for one in artifact.parity.differences:
        assert f"| {one.output} | {one.batch} x {one.height} x {one.width} | {one.max_abs:.2e} |" in text
    assert "**passed** against" in text
    assert "/secret" not in text
    assert str(run.parent) not in text


def test_sensitivity_is_that_of_the_runs_evaluation_or_not_measured(artifact: Shipped, run: Path) -> None:
    write_cards(artifact, run)
    command = "gtsa eval sensitivity 'street|1' --images IMAGES --out 'street|1/eval'"
    assert f"Not measured: `{command}`" in read_card(artifact.card_path).text
    write_sensitivity(run)
    write_cards(artifact, run)
    text = read_card(artifact.card_path).text
    assert "| street | 1 | 12.35 | 78.90 |" in text
    assert "Not measured" not in text.partition("## Sensitivity")[2].partition("##")[0]


def test_an_exported_file_leads_to_its_run_and_other_weights_do_not(artifact: Shipped, run: Path) -> None:
    """Facts are those of the weights by their hash, whatever lies beside them."""
    write_cards(artifact, artifact.path)
    assert "4711" in read_card(artifact.card_path).text
    (run / ENCODER).write_bytes(b"another run")
    write_cards(artifact, run)
    text = read_card(artifact.card_path).text
    assert "4711" not in text
    assert "Not known" in text


def test_the_header_has_the_task_score(artifact: Shipped, run: Path) -> None:
    scored = TaskScoreRecord(
        metric="mIoU", source=61.5, artifact=61.25, drop=0.25, max_drop=0.5, images=9, data="roads", passed=True
    )
    task = replace(artifact, task="segment", labels=("road", "sky|blue"), task_score=scored)
    write_cards(task, run)
    card = read_card(task.card_path)
    assert card.data.pipeline_tag == "image-segmentation"
    (result,) = card.data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == ("image-segmentation", "mean_iou", 61.25)
    assert result.dataset_name == "roads"
    assert "| roads | 9 | mIoU | 61.25 | 61.50 |" in card.text
    assert "Classes: road, sky|blue." in card.text


def test_the_bill_is_bound_to_the_file_and_names_what_made_it(artifact: Shipped, run: Path) -> None:
    write_cards(artifact, run)
    bill = read_bill(artifact.bill_path)
    main = bill["metadata"]["component"]
    content = artifact.path.read_bytes()
    assert main["name"] == "encoder.onnx"
    assert main["type"] == "machine-learning-model"
    assert main["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]
    values = {one["name"].removeprefix("gtsa-kit:"): one["value"] for one in main["properties"]}
    minimum = minimum_versions(artifact.path)
    assert values["parity"] == "passed"
    assert values["minimum:onnxruntime"] == minimum.onnxruntime
    assert values["minimum:triton"] == minimum.triton
    components = {one["name"]: one for one in bill["components"]}
    for name in ("torch", "numpy", "onnx", "timm", "safetensors"):
        assert components[name]["version"] == importlib.metadata.version(name)
        assert components[name]["purl"].startswith(f"pkg:pypi/{name}@")
    record = importlib.metadata.distribution("numpy").read_text("RECORD")
    assert record is not None
    assert components["numpy"]["properties"] == [
        {"name": "gtsa-kit:record:sha256", "value": hashlib.sha256(record.encode()).hexdigest()}
    ]
    refs = {one["bom-ref"] for one in bill["components"]}
    graph = {one["ref"]: set(one.get("dependsOn", [])) for one in bill["dependencies"]}
    assert graph.pop(main["bom-ref"]) == refs
    assert set().union(*graph.values()) <= refs
    assert components["numpy"]["bom-ref"] in graph[components["onnx"]["bom-ref"]]
    again = bill["serialNumber"]
    write_cards(artifact, run)
    assert read_bill(artifact.bill_path)["serialNumber"] == again
    changed = replace(artifact, files={"encoder.onnx": "00" * 32})
    write_cards(changed, run)
    assert read_bill(artifact.bill_path)["serialNumber"] != again


def test_packages_are_closed_under_their_requirements() -> None:
    packages = {package.name: package for package in packages_behind("onnx")}
    assert all(set(package.requires) <= packages.keys() for package in packages.values())
    assert "typing-extensions" in packages  # of torch
    assert "pytest" not in packages
    assert "openvino" not in packages


@pytest.mark.parametrize(
    ("opset", "ir_version", "runtime", "triton"),
    [
        (18, 8, "1.14", "23.03"),
        (20, 9, "1.17", "24.03"),
        (20, 10, "1.18", "24.05"),
        (22, 10, "1.21", "25.03"),
        (23, 11, "1.23", "25.08"),
        (18, 4, "1.14", "23.03"),
        (24, 12, "", ""),
    ],
)
def test_the_oldest_runtimes_follow_from_opset_and_ir_version(
    opset: int, ir_version: int, runtime: str, triton: str, tmp_path: Path
) -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("y", 1, [1])])
    imports = [helper.make_opsetid("other", 1), helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=ir_version), tmp_path / "g.onnx")
    assert minimum_versions(tmp_path / "g.onnx") == MinimumVersions(opset, ir_version, runtime, triton)


def test_the_command_writes_both_into_a_folder(
    gtsa_here: Callable[..., Any], run: Path, few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hub"
    command = ["export", run, "--format", "hf", "--card", "--images", few, "--out", out, "--json"]
    done = gtsa_here(*command)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["artifacts"]
    assert entry["card"] == str(out / "README.md")
    card = read_card(out / "README.md")
    assert card.data.library_name == "transformers"
    assert "last_hidden_state[:, 1:].mean(1)" in card.text
    assert "4711" in card.text
    main = read_bill(Path(entry["bill_of_materials"]))["metadata"]["component"]
    hashes = {one["name"]: one["hashes"][0]["content"] for one in main["components"]}
    assert hashes == {
        name: sha256_of(out / name) for name in ("model.safetensors", "config.json", "preprocessor_config.json")
    }
    (out / "gtsa.json").unlink()
    for name in hashes:
        (out / name).unlink()
    again = gtsa_here(*command)
    assert again.returncode == 2
    assert "README.md exists" in again.stderr


def test_a_model_of_triton_is_described_by_the_file_that_it_serves(
    gtsa_here: Callable[..., Any], artifact: Shipped, tmp_path: Path
) -> None:
    done = gtsa_here("export", artifact.path, "--format", "triton", "--card", "--out", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "encoder"
    card = read_card(folder / "README.md")
    assert "triton" in card.data.tags
    assert "| training images | 4711 |" in card.text
    assert "| input | `images` | float32 |" in card.text
    main = read_bill(folder / "gtsa.cdx.json")["metadata"]["component"]
    hashes = {one["name"]: one["hashes"][0]["content"] for one in main["components"]}
    assert hashes == {name: sha256_of(folder / name) for name in ("config.pbtxt", "1/model.onnx")}
    values = {one["name"]: one["value"] for one in main["properties"]}
    assert values["gtsa-kit:minimum:triton"] == minimum_versions(artifact.path).triton


def test_a_missing_package_is_named_before_the_export(
    gtsa_here: Callable[..., Any], tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtsa_kit.cli.support import checks

    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    done = gtsa_here("export", tiny_run, "--format", "onnx", "--card", "--out", tmp_path / "x.onnx")
    assert done.returncode == 2
    assert "cyclonedx-python-lib is not installed\n  hint: pip install 'gtsa-kit[card]'" in done.stderr
    assert not (tmp_path / "x.onnx").exists()
