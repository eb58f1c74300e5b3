"""Predictions of folders: masks, tables, overlays and run lengths against Pillow, numpy and the PyTorch model."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.task_models import LABELS, save_random_task, task_spec
from PIL import Image, ImageOps

import gtsa_kit
from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.export.spec import Range
from gtsa_kit.models.task_model import TaskModel, load_task_model
from gtsa_kit.tasks.mask_files import OPACITY
from gtsa_kit.tasks.predict_job import predict_folder
from gtsa_kit.tasks.predict_plan import PredictOptions

IDS = np.array([label.id for label in LABELS], np.uint8)
COLORS = np.array([label.color for label in LABELS], np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_random_task(folder, task_spec("fpn flat"))
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_random_task(folder, task_spec("classify"))
    return folder


@pytest.fixture(scope="module")
def mixed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "ü 日本").mkdir()
    picture = Image.open(images / "p3.jpg")
    picture.save(folder / "ü 日本" / "é.jpg")
    picture.save(folder / "same.jpg")
    picture.resize((50, 90)).save(folder / "same.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "rotated.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    Image.fromarray(np.arange(70 * 50, dtype=np.uint16).reshape(70, 50) * 18).save(folder / "deep.png")
    (folder / "truncated.jpg").write_bytes((images / "p0.jpg").read_bytes()[:900])
    (folder / "text.png").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def predicted(model: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted")
    options = PredictOptions(short_side=64, overlay=True, rle=True, workers=2, batch_size=2)
    summary = predict_folder(model, mixed, out, options)
    assert (summary.rows, summary.errors, summary.total) == (6, 2, 8)
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def expected_logits(model: TaskModel, image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(model.encoder.preprocessing(image, size))[None])


def input_size(image: Image.Image, short_side: int = 64) -> tuple[int, int]:
    scale = short_side / min(image.size) / 16
    return round(image.height * scale) * 16, round(image.width * scale) * 16


def test_masks_are_index_pngs_of_the_upright_size_with_the_labels_colors(
    predicted: Path, mixed: Path, model: Path
) -> None:
    task_model = load_task_model(model)
    assert [row["path"] for row in rows(predicted)] == [
        *("deep.png", "dot.png", "rotated.jpg", "same.jpg", "same.png", "ü 日本/é.jpg")
    ]
    for row in rows(predicted):
        image = open_image(mixed / row["path"])
        with Image.open(mixed / row["path"]) as stored:
            assert image.size == ImageOps.exif_transpose(stored).size
        with Image.open(predicted / row["mask"]) as mask:
            assert (mask.mode, mask.size, mask.format) == ("P", image.size, "PNG")
            values, palette = np.asarray(mask), np.array(mask.getpalette()).reshape(-1, 3)
        assert (int(row["width"]), int(row["height"])) == image.size
        assert (palette[IDS] == COLORS).all()
        logits = expected_logits(task_model, image, input_size(image))
        resized = F.interpolate(logits, values.shape, mode="bilinear", align_corners=False)[0]
        assert (values == IDS[resized.argmax(0).numpy()]).mean() > 0.999  # the faster resize differs by a level
        shares = [float(row[f"share_{label.name}"]) for label in LABELS]
        np.testing.assert_allclose(shares, [(values == value).mean() for value in IDS], atol=1e-5)
    labels = json.loads((predicted / "labels.json").read_text(encoding="utf-8"))
    assert [(label["pixel"], label["name"]) for label in labels] == [(label.id, label.name) for label in LABELS]


def test_unreadable_files_are_listed_with_their_reasons(predicted: Path) -> None:
    errors = [json.loads(line) for line in (predicted / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [error["path"] for error in errors] == ["text.png", "truncated.jpg"]
    assert all(error["reason"] for error in errors)
    assert not list((predicted / "masks").glob("t*"))


def test_overlays_show_the_upright_image_in_the_colors_of_its_mask(predicted: Path, mixed: Path) -> None:
    for row in rows(predicted):
        image = np.asarray(open_image(mixed / row["path"]), np.float32)
        overlay = np.asarray(Image.open(predicted / "overlays" / f"{row['path']}.jpg"), np.float32)
        numbers = np.argmax(np.asarray(Image.open(predicted / row["mask"]))[..., None] == IDS, axis=-1)
        expected = (1 - OPACITY) * image + OPACITY * COLORS[numbers]
        height, width = numbers.shape
        assert overlay.shape[0] > height + 20, "no legend"
        assert overlay.shape[1] == width
        if width == 1:
            continue
        assert np.abs(overlay[: height - 8, : width - 8] - expected[:-8, :-8]).mean() < 12  # JPEG


def test_run_lengths_are_the_pixels_of_the_masks(predicted: Path) -> None:
    lines = [json.loads(line) for line in (predicted / "rle.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows(predicted):
        values = np.asarray(Image.open(predicted / row["mask"]))
        own = {line["category_id"]: line for line in lines if line["path"] == row["path"]}
        assert own.keys() == {int(value) for value in np.unique(values)}
        for value, line in own.items():
            assert line["area"] == (values == value).sum()
            assert line["segmentation"]["size"] == list(values.shape)
            x, y, width, height = line["bbox"]
            inside = np.zeros(values.shape, bool)
            inside[y : y + height, x : x + width] = True
            assert not (values == value)[~inside].any()
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for row in rows(predicted):
        values = np.asarray(Image.open(predicted / row["mask"]))
        for line in lines:
            if line["path"] == row["path"]:
                assert (coco.decode(line["segmentation"]) == (values == line["category_id"])).all()


def test_classes_and_probabilities_are_those_of_the_model(classifier: Path, images: Path, tmp_path: Path) -> None:
    predict_folder(classifier, images, tmp_path / "out", PredictOptions(size=(64, 64)))
    model = load_task_model(classifier)
    table = rows(tmp_path / "out")
    assert [row["path"] for row in table] == [f"p{i}.jpg" for i in range(20)]
    assert not (tmp_path / "out" / "masks").exists()
    for row in table:
        logits = expected_logits(model, open_image(images / row["path"]), (64, 64))[0]
        probabilities, numbers = logits.softmax(0).sort(descending=True)
        names = [row["label"], *(row[f"label_{i}"] for i in range(2, 6))]
        values = [row["probability"], *(row[f"probability_{i}"] for i in range(2, 6))]
        np.testing.assert_allclose([float(value) for value in values], probabilities, atol=2e-2)
        if (probabilities[:-1] - probabilities[1:]).min() > 2e-2:
            assert names == [LABELS[number].name for number in numbers]
    with pytest.raises(ValueError, match="are for masks; this model classifies images"):
        predict_folder(classifier, images, tmp_path / "other", PredictOptions(rle=True))


def test_predictions_in_memory_equal_those_in_files(predicted: Path, mixed: Path, model: Path) -> None:
    failed: list[str] = []
    options = {"short_side": 64, "batch_size": 2, "on_unreadable": lambda path, reason: failed.append(path)}
    kept = {result.path: result for result in gtsa_kit.predict(model, mixed, **options)}
    assert failed == ["text.png", "truncated.jpg"]
    for row in rows(predicted):
        result = kept[row["path"]]
        assert (IDS[result.mask] == np.asarray(Image.open(predicted / row["mask"]))).all()
        assert (result.width, result.height) == (int(row["width"]), int(row["height"]))
        assert result.labels == LABELS
    with pytest.raises(ImageError, match="truncated"):
        list(gtsa_kit.predict(model, mixed / "truncated.jpg"))
    array = np.asarray(open_image(mixed / "same.png"))
    for source in (array, Image.fromarray(array), [mixed / "same.png"]):
        whole = next(gtsa_kit.predict(model, source, short_side=64))
        assert (whole.mask == kept["same.png"].mask).mean() > 0.999
        tiled = next(gtsa_kit.predict(model, source, tile=48))
        assert tiled.mask.shape == array.shape[:2]


def test_ids_that_are_colors_become_class_numbers(images: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from helpers.task_models import random_task_model

    from gtsa_kit.models.task_model import save_task_model

    spec = task_spec("linear")
    labels = tuple(replace(label, id=0x10000 + label.id) for label in LABELS)
    (tmp_path / "run").mkdir()
    save_task_model(tmp_path / "run", random_task_model(replace(spec, labels=labels)), {})
    predict_folder(tmp_path / "run", images, tmp_path / "out", PredictOptions(size=(32, 32)))
    values = np.asarray(Image.open(tmp_path / "out" / "masks" / "p0.jpg.png"))
    assert set(np.unique(values)) <= set(range(len(LABELS)))
    described = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [label["pixel"] for label in described] == list(range(len(LABELS)))
    assert described[1]["id"] == 0x10003


def test_files_of_one_name_and_names_that_lead_outside_get_files_of_their_own(
    model: Path, images: Path, tmp_path: Path
) -> None:
    for i in range(3):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "a.jpg").write_bytes((images / f"p{i}.jpg").read_bytes())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("".join(f"../{i}/a.jpg\n" for i in range(3)))
    out = tmp_path / "out"
    predict_folder(model, tmp_path / "lists" / "list.txt", out, PredictOptions(size=(32, 32)))
    table = rows(out)
    assert len({row["mask"] for row in table}) == 3
    for row in table:
        assert (out / row["mask"]).resolve().is_relative_to((out / "masks").resolve())
        assert (out / row["mask"]).exists()


def test_the_command_predicts_resumes_and_says_what_is_wrong(
    model: Path, mixed: Path, images: Path, tiny_run: Path, tmp_path: Path, gtsa_here: Callable
) -> None:
    out = tmp_path / "out"
    done = gtsa_here("predict", model, mixed, "--out", out, "--short-side", 64, "--json")
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert [numbers[name] for name in ("out", "rows", "errors", "total", "processed")] == [str(out), 6, 2, 8, 8]
    again = gtsa_here("predict", model, mixed, "--out", out, "--short-side", 64, "--resume")
    assert "8 of 8 were committed before" in again.stderr
    for options, message in (
        ([], "holds a job already; continue it with --resume".split("; ")[0]),
        (["--resume", "--tile", 64], "was started with other settings"),
        (["--resume", "--short-side", 64, "--overlay"], "overlay: false before, true now"),
    ):
        wrong = gtsa_here("predict", model, mixed, "--out", out, *options)
        assert wrong.returncode == 2
        assert message in wrong.stderr
    changed = gtsa_here("predict", model, images, "--out", out, "--short-side", 64, "--resume")
    assert changed.returncode == 2
    assert "20 added (first p0.jpg), 8 removed" in changed.stderr
    for arguments, message in (
        (["--tile", 64, "--native"], "--tile takes windows of the image's own resolution"),
        (["--overlap", 8], "--overlap is that of windows; add --tile".split("; ")[0]),
        (["--tile", 50], "--tile 50: height must be"),
    ):
        wrong = gtsa_here("predict", model, mixed, "--out", tmp_path / "wrong", *arguments)
        assert wrong.returncode == 2
        assert message in wrong.stderr
    encoder = gtsa_here("predict", tiny_run, mixed, "--out", tmp_path / "wrong")
    assert encoder.returncode == 2
    assert "is an encoder, which gives no classes" in encoder.stderr
    stopped = gtsa_here("predict", model, mixed, "--out", tmp_path / "strict", "--on-error", "fail")
    assert stopped.returncode == 1
    assert "text.png" in stopped.stderr
    unusable = gtsa_here("predict", model, mixed / "text.png", "--out", tmp_path / "none")
    assert unusable.returncode == 1


@pytest.mark.parametrize(
    ("kind", "options"), [("linear", {}), ("fpn flat", {"output": "mask", "input": "uint8"})], ids=["logits", "mask"]
)
def test_exported_files_predict_what_their_run_does(
    kind: str, options: dict[str, str], made: Callable[..., Path], task_run: Callable[[str], Path], mixed: Path
) -> None:
    """ONNX files of one size and batch, one of which takes pixels and gives the mask at the size of its input."""
    path = made("onnx", task_run(kind), **options, height=Range(48, 48), width=Range(64, 64), batch=Range(2, 2))
    more = {"on_unreadable": lambda *_: None, "device": "cpu"}
    expected = {item.path: item.mask for item in gtsa_kit.predict(task_run(kind), mixed, size=(48, 64), **more)}
    actual = {item.path: item.mask for item in gtsa_kit.predict(path, mixed, **more)}
    assert actual.keys() == expected.keys()
    for name, mask in actual.items():
        assert mask.shape == expected[name].shape
        assert (mask == expected[name]).mean() > (0.93 if options else 0.999), name
    if options:
        with pytest.raises(ValueError, match="--tile blends windows by their logits"):
            next(gtsa_kit.predict(path, mixed, tile=64))


def test_an_unfinished_run_is_named_with_the_command_that_continues_it(images: Path, tmp_path: Path) -> None:
    from gtsa_kit.config.finetune_presets import load_finetune_config
    from gtsa_kit.config.layers import dump_config
    from gtsa_kit.tasks.heads import open_head

    config = load_finetune_config("segment", None, None, {"model.random": "vit_test"})
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    words = r"run is an unfinished run of fine-tuning, .*; continue it: gtsa finetune segment --resume --out .*run$"
    with pytest.raises(ValueError, match=words):
        next(gtsa_kit.predict(tmp_path / "run", images))
    with pytest.raises(ValueError, match=words):
        open_head("road", tmp_path / "run", "cpu")
