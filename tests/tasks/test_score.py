"""Scores of task models and exported files on labeled images, and the gate that compares them."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.task_models import LABELS, random_task_model, task_spec
from PIL import Image
from rich.console import Console

import gtsa_kit
from gtsa_kit.cli.support import score_steps
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.cli.support.verify_scores import score_engine_again
from gtsa_kit.cli.support.verify_steps import ReferenceOptions
from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.config.layers import flatten
from gtsa_kit.data.label_map import VOID
from gtsa_kit.export import load
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.manifest import read_manifest, write_manifest
from gtsa_kit.export.manifest_records import EngineRecord, GraphRecord
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.task_graph import options_for
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model
from gtsa_kit.tasks import score_gate
from gtsa_kit.tasks.score import compare_scores, read_labeled_images, score
from gtsa_kit.tasks.start import make_spec
from gtsa_kit.tasks.task_data import open_task_data

IDS = np.array([label.id for label in LABELS], np.uint8)
UNKNOWN = 99
"""Pixel value that is no class."""


def image_and_mask(index: int) -> tuple[Image.Image, np.ndarray]:
    """Return a smooth picture of its own shape and a mask of blocks, some of them of no class."""
    rng = np.random.default_rng(index)
    size = (70 + 10 * (index % 2), 50)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    blocks = Image.fromarray(rng.choice([*IDS, UNKNOWN], (3, 4)).astype(np.uint8))
    return image, np.asarray(blocks.resize(size, Image.Resampling.NEAREST))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with masks in val, and one in train, which must not count."""
    folder = tmp_path_factory.mktemp("labeled")
    for index, split in enumerate(["val", "val", "val", "val", "train"]):
        image, mask = image_and_mask(index)
        for part, picture in (("images", image), ("masks", Image.fromarray(mask))):
            (folder / split / part).mkdir(parents=True, exist_ok=True)
            picture.save(folder / split / part / f"{index}.png")
    return folder


@pytest.mark.parametrize("in_color", [True, False])
def test_masks_are_read_as_those_of_the_training(in_color: bool, tmp_path: Path) -> None:
    """Colors that are small numbers, or indices; two values are one class, and one is void."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 4, (2, 32, 48))
    values = np.array([0, 1, 3, 9]) if in_color else np.array([0, 4, 300, 9])
    for part, content in zip(("train", "val"), values[numbers], strict=True):
        rgb = np.stack([content >> 16, content >> 8 & 255, content & 255], -1).astype(np.uint8)
        for kind, pixels in (("images", rgb), ("masks", rgb if in_color else content.astype(np.uint16))):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / kind / "0.png")
    names = tmp_path / "labels.csv" if in_color else tmp_path / "labels.yaml"
    rows = ["name,r,g,b", "road,0,0,0", "car,0,0,1", "road,0,0,3"]
    names.write_text("\n".join(rows) if in_color else "{0: road, 4: car, 300: road}")
    settings = {"source": str(tmp_path), "labels": str(names), "ignore": ["#000009" if in_color else "9"]}
    head = {"augment": {"size": 32}, "head": {"name": "linear", "layers": [], "blocks": 0, "channels": 128}}
    config = load_finetune_config("segment", overrides=flatten({"data": settings} | head))
    data = open_task_data(config)
    model = TaskModel(Encoder("vit_test"), make_spec(config, data))
    manifest = build_manifest(model, "onnx", options_for(model, ExportOptions()), {}, "")
    scored = read_labeled_images(tmp_path, "segment", manifest.labels, manifest.label_masks)
    assert (scored.read_label(0) == np.array([0, 1, 0, VOID])[numbers[1]]).all()
    assert (scored.read_label(0) == data.label(1)).all()


def slow_miou(run: Path) -> float:
    """Compute mIoU over the val images pixel by pixel with torch's own model."""
    model = load_task_model(run)
    hits, unions = np.zeros(5), np.zeros(5)
    for index in range(4):
        image, mask = image_and_mask(index)
        pixels = model.encoder.preprocessing(image, (224, 224))
        with torch.inference_mode():
            logits = model(torch.from_numpy(pixels)[None])
        predicted = F.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False).argmax(1)[0].numpy()
        for number, value in enumerate(IDS):
            truth, ours = mask == value, (predicted == number) & np.isin(mask, IDS)
            hits[number] += (truth & ours).sum()
            unions[number] += (truth | ours).sum()
    return 100 * float(np.mean(hits[unions > 0] / unions[unions > 0]))


def test_miou_equals_a_slow_version(masks: Path, task_run) -> None:
    data = read_labeled_images(masks, "segment", LABELS)
    assert [path.name for path in data.paths] == ["0.png", "1.png", "2.png", "3.png"]
    expected = slow_miou(task_run("linear"))
    assert 1 < expected < 90
    assert score(load(task_run("linear"), "cpu"), data) == pytest.approx(expected, abs=0.05)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for index in range(6):
        (folder / LABELS[index % 3].name).mkdir(exist_ok=True)
        image_and_mask(index)[0].save(folder / LABELS[index % 3].name / f"{index}.png")
    return folder


def test_top_1_counts_the_classes_by_name(classes: Path, task_run) -> None:
    run = task_run("classify")
    model, right = load_task_model(run), 0
    for index in range(6):
        pixels = torch.from_numpy(model.encoder.preprocessing(image_and_mask(index)[0], (224, 224)))
        with torch.inference_mode():
            right += int(model(pixels[None]).argmax()) == index % 3
    data = read_labeled_images(classes, "classify", LABELS)
    assert score(load(run, "cpu"), data) == pytest.approx(100 * right / 6)
    with pytest.raises(ValueError, match=r"the class 'car', the model has sky, road"):
        read_labeled_images(classes, "classify", LABELS[:2])
    with pytest.raises(ValueError, match="is for the task classify, the model for segment"):
        score(load(task_run("linear"), "cpu"), data)


def test_masks_of_a_file_are_scored_like_its_logits(masks: Path, task_run, made) -> None:
    data = read_labeled_images(masks, "segment", LABELS)
    mask = made("torchscript", task_run("linear"), output="mask")
    assert score(load(mask, "cpu"), data) == pytest.approx(score(load(task_run("linear"), "cpu"), data), abs=2)


def test_a_drop_is_compared_in_points(masks: Path) -> None:
    data = read_labeled_images(masks, "segment", LABELS)
    record = compare_scores(50.0, 49.4, data, 0.5)
    assert (record.metric, record.images, record.data, record.passed) == ("mIoU", 4, masks.name, False)
    assert record.drop == pytest.approx(0.6)
    assert compare_scores(50.0, 49.5, data, 0.5).passed
    assert compare_scores(50.0, 51.0, data, 0.0).passed


def test_export_and_verify_score_the_file(gtsa_here, masks: Path, few: Path, tmp_path: Path) -> None:
    save_task_model(tmp_path, random_task_model(task_spec("linear")), {})
    common = ["--format", "torchscript", "--images", few, "--max-size", "224"]
    done = gtsa_here("export", tmp_path, *common, "--score", masks, "--json")
    assert done.returncode == 0, done.stderr
    record = read_manifest(tmp_path / "model.ts").task_score
    assert record.passed
    assert record.source == pytest.approx(slow_miou(tmp_path), abs=0.05)
    assert record.artifact == pytest.approx(record.source, abs=0.05)
    assert json.loads(done.stdout)["artifacts"][0]["manifest"]["task_score"]["metric"] == "mIoU"
    assert f"mIoU {record.artifact:.2f}%" in gtsa_here("info", tmp_path / "model.ts").stdout
    verified = gtsa_here("verify", tmp_path / "model.ts", "--images", few, "--score", masks)
    assert verified.returncode == 0, verified.stderr
    assert f"float32 model {record.source:.2f}%" in verified.stderr


def test_a_file_of_one_size_is_compared_at_that_size(gtsa_here, masks: Path, few: Path, tmp_path: Path) -> None:
    save_task_model(tmp_path, random_task_model(task_spec("linear")), {})
    size = ["--size", "32x48", "--batch", "1", "--images", few]
    done = gtsa_here("export", tmp_path, "--format", "torchscript", *size, "--score", masks)
    assert done.returncode == 0, done.stderr
    record = read_manifest(tmp_path / "model.ts").task_score
    assert record.source == pytest.approx(record.artifact, abs=0.01)
    assert record.source != pytest.approx(slow_miou(tmp_path), abs=0.5)


def test_a_file_that_scores_lower_exits_with_1(
    gtsa_here, masks: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_task_model(tmp_path, random_task_model(task_spec("linear")), {})
    values = iter([40.0, 39.0])
    for module in (score_steps, score_gate):
        monkeypatch.setattr(module, "score", lambda *_: next(values))
    size = ["--size", "32", "--batch", "1", "--images", few, "--score", masks]
    done = gtsa_here("export", tmp_path, "--format", "torchscript", *size)
    assert done.returncode == 1
    assert f"loses 1.00 points of mIoU on {masks.name}, more than 0.5" in done.stderr
    assert not read_manifest(tmp_path / "model.ts").task_score.passed
    values = iter([40.0, 39.0])
    again = gtsa_here("export", tmp_path, "--format", "torchscript", *size, "--max-drop", "1", "--force")
    assert again.returncode == 0, again.stderr


def test_python_scores_too(masks: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_task_model(tmp_path, random_task_model(task_spec("linear")), {})
    options = {"format": "torchscript", "size": (32, 48), "batch": 1, "images": few, "score": masks}
    path = gtsa_kit.export(tmp_path, **options)
    record = read_manifest(path).task_score
    assert (record.metric, record.passed) == ("mIoU", True)
    assert record.source == pytest.approx(record.artifact, abs=0.01)
    values = iter([40.0, 39.0, 40.0, 39.0, 40.0, 39.0])
    monkeypatch.setattr(score_gate, "score", lambda *_: next(values))
    with pytest.raises(gtsa_kit.TaskScoreError, match=r"loses 1.00 points of mIoU on .*, more than 0.5"):
        gtsa_kit.verify(path, images=few, score=masks)
    assert gtsa_kit.verify(path, images=few, score=masks, max_drop=1).passed
    with pytest.raises(gtsa_kit.TaskScoreError) as caught:
        gtsa_kit.export(tmp_path, **options, overwrite=True)
    assert caught.value.record == read_manifest(path).task_score


@pytest.mark.parametrize("command", ["export", "verify"])
def test_score_needs_a_fine_tuned_model(command: str, gtsa_here, tiny_run: Path, made, masks: Path) -> None:
    target = tiny_run if command == "export" else made("torchscript")
    options = ["--format", "torchscript", "--force"] if command == "export" else []
    done = gtsa_here(command, target, *options, "--score", masks)
    assert done.returncode == 2
    assert "is an encoder, which has no task to score" in done.stderr


def test_a_model_of_triton_and_an_engine_are_scored(
    gtsa_here, masks: Path, few: Path, made, task_run, tmp_path: Path
) -> None:
    run, size = task_run("linear"), Range(32, 32)
    graph = made("onnx", run, height=size, width=size, batch=Range(1, 1))
    options = ["--against", run, "--images", few, "--score", masks]
    done = gtsa_here("export", graph, "--format", "triton", "--out", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    done = gtsa_here("verify", tmp_path / "models", *options)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("task score")]
    engine = tmp_path / "model.engine"
    shutil.copy(graph, engine.with_name("model.engine.onnx"))
    manifest = read_manifest(graph)
    write_manifest(engine.with_name("model.engine.onnx"), manifest)
    none = {"variant": "tensorrt-rtx", "version": "1", "capabilities": (), "profile": (), "optimization_level": None}
    beside = GraphRecord(file="model.engine.onnx", sha256="", opset=20, parity=manifest.parity)
    record = EngineRecord(**none, graph=beside, parity="not run", workspace_gib=None, seconds=0.0)
    write_manifest(engine, manifest.model_copy(update={"format": "trt", "engine": record}))
    engine.write_bytes(b"an engine that no machine runs")
    reference, scoring = ReferenceOptions(run, ImportOptions()), ScoreOptions(score=masks)
    out = io.StringIO()
    console = Console(file=out, width=300)
    score_engine_again(engine, reference, scoring, "cpu", console)
    assert "is not run (--device cpu); its graph, model.engine.onnx, is scored in ONNX Runtime" in out.getvalue()
    assert line in out.getvalue()
    engine.with_name("model.engine.onnx").unlink()
    with pytest.raises(ValueError, match="its graph is not beside it; score it on its GPU"):
        score_engine_again(engine, reference, scoring, "cpu", console)


@pytest.mark.parametrize("kind", ["timm", "trt"])
def test_what_has_no_task_is_not_scored(kind: str, gtsa_here, tiny_run: Path, few: Path, masks: Path, tmp_path) -> None:
    if kind == "timm":
        gtsa_here("export", tiny_run, "--format", "timm", "--out", tmp_path / "timm", "--images", few)
        done = gtsa_here("verify", tmp_path / "timm", "--score", masks)
        assert done.returncode == 2
        assert "is a checkpoint for timm, which has no task to score" in done.stderr
        return
    engine = tmp_path / "encoder.engine"
    manifest = build_manifest(Encoder("vit_test"), "trt", ExportOptions(), {}, "")
    write_manifest(engine, manifest)
    engine.write_bytes(b"")
    with pytest.raises(ValueError, match="has no task to score; omit --score"):
        score_engine_again(engine, ReferenceOptions(None, ImportOptions()), ScoreOptions(masks), "cpu", Console())


def test_a_file_without_its_weights_is_checked_for_shapes(gtsa_here, few: Path, made, task_run, tmp_path: Path) -> None:
    original = made("torchscript", task_run("linear"), output="mask")
    for file in original.parent.iterdir():
        shutil.copy(file, tmp_path)
    manifest = tmp_path / f"{original.name}.json"
    content = json.loads(manifest.read_text())
    content["source"] |= {"path": "", "relative": ""}
    manifest.write_text(json.dumps(content))
    done = gtsa_here("verify", tmp_path / original.name, "--images", few)
    assert done.returncode == 0, done.stderr
    for expected in ("outputs have the shapes of the manifest", "two runs give the same outputs", "were not found"):
        assert expected in " ".join(done.stderr.split())
