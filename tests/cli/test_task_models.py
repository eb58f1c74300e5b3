"""Commands on fine-tuned models: export, info, bench, and commands that need an encoder."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtsa_kit.export.manifest import manifest_path, read_manifest
from gtsa_kit.export.spec import Range


def test_export_writes_a_mask_and_info_describes_it(gtsa_here, task_run, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.ts"
    options = ["--size", "48x64", "--batch", "2", "--output", "mask", "--images", few]
    done = gtsa_here("export", task_run("linear"), "--format", "torchscript", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "same class" in done.stderr
    assert read_manifest(out).output == "mask"
    printed = gtsa_here("info", out).stdout
    for expected in ("segment", "5: sky, road, car, tree, fence", "mask  uint8 (2, 48, 64)", "same class 100.000%"):
        assert expected in printed
    run = gtsa_here("info", task_run("linear")).stdout
    assert "fine-tuned model of gtsa-kit" in run
    assert "5: sky, road, car, tree, fence" in run
    assert json.loads(gtsa_here("info", task_run("linear"), "--json").stdout)["encoder"]["task"]["head"] == "linear"


def test_a_graph_stands_for_its_run(gtsa_here, made, task_run, few: Path, tmp_path: Path) -> None:
    run, size = task_run("linear"), Range(32, 32)
    graph = made("onnx", run, height=size, width=size, batch=Range(1, 1))
    options = ["--size", "32x48", "--batch", "1", "--output", "mask", "--images", few]
    done = gtsa_here("export", graph, "--format", "torchscript", "--precision", "fp16", *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"the float32 weights of {(run / 'model.safetensors').resolve()} are exported again" in done.stderr
    manifest = read_manifest(tmp_path / "model.ts")
    assert (manifest.task, manifest.precision, manifest.output) == ("segment", "fp16", "mask")
    assert manifest.parity.passed
    lost = tmp_path / "lost" / "model.onnx"
    lost.parent.mkdir()
    shutil.copy(graph, lost)
    content = json.loads(manifest_path(graph).read_text())
    content["source"] |= {"path": "", "relative": ""}
    manifest_path(lost).write_text(json.dumps(content))
    done = gtsa_here("export", lost, "--format", "torchscript")
    assert done.returncode == 2
    assert "were not found" in done.stderr
    assert "name the run or its model.safetensors" in done.stderr


def test_the_default_name_is_model(gtsa_here, few: Path, tmp_path: Path) -> None:
    from helpers.task_models import save_random_task, task_spec

    save_random_task(tmp_path, task_spec("classify"))
    size = ["--size", "32", "--batch", "1", "--images", few]
    assert gtsa_here("export", tmp_path, "--format", "torchscript", *size).returncode == 0
    assert (tmp_path / "model.ts").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["embed", "{images}", "--model", "{run}", "--out", "{out}"], "fine-tuned to segment and gives no features"),
        (["export", "{run}", "--format", "timm", "--out", "{out}"], "timm takes an encoder"),
        (["export", "{run}", "--format", "onnx", "--layers", "1"], "no features hint: omit --layers"),
        (["export", "{encoder}", "--format", "onnx", "--output", "mask"], "--output is for a fine-tuned model"),
        (
            ["export", "{run}", "--format", "openvino", "--precision", "fp16", "--keep-float", "head"],
            "omit --keep-float",
        ),
    ],
)
def test_what_a_model_does_not_have_is_one_sentence(
    args: list[str], message: str, gtsa_here, task_run, tiny_run: Path, few: Path, tmp_path: Path
) -> None:
    names = {"run": task_run("linear"), "encoder": tiny_run, "images": few, "out": tmp_path / "out"}
    done = gtsa_here(*(arg.format(**names) for arg in args))
    assert done.returncode == 2, done.stderr
    assert message in re.sub(r"\s+", " ", done.stderr)
    assert not (task_run("linear") / "model.onnx").exists()


def test_classes_are_compared_in_the_bench() -> None:
    from gtsa_kit.export.benchmark.difference import compare_outputs

    logits = np.array([[1.0, 2, 0], [3, 1, 0]], np.float32)
    same = compare_outputs(logits, logits + 1, is_task=True)
    assert (same.agreement, same.max_abs, same.min_cosine, same.problem) == (1.0, 1.0, None, "")
    mask = compare_outputs(logits, np.array([1, 1], np.uint8), is_task=True)
    assert (mask.agreement, mask.max_abs) == (0.5, None)
    assert compare_outputs(logits, logits[:1], is_task=True).problem == "other shape"
    assert compare_outputs(logits, logits * np.nan, is_task=True).problem == "not finite"


def test_masks_are_found_in_no_folder_of_images(tmp_path: Path) -> None:
    from gtsa_kit.export.source import task_images

    settings = tmp_path / "config.yaml"
    for part in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / "data" / split / part).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / split / part / "a.png")
    settings.write_text(f"task: segment\ndata:\n  source: {tmp_path / 'data'}\n")
    assert task_images(settings) == tmp_path / "data" / "val" / "images"
    settings.write_text("task: segment\n")
    assert task_images(settings) is None
