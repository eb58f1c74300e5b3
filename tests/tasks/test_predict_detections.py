"""Detections of folders: COCO results, counts and overlays against the PyTorch model and pycocotools."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.task_models import LABELS, save_random_task, task_spec
from PIL import Image

import gtsa_kit
from gtsa_kit.data.image_io import open_image
from gtsa_kit.export.spec import Range
from gtsa_kit.models.task_model import load_task_model
from gtsa_kit.tasks.image_ids import match_image_ids, read_image_ids
from gtsa_kit.tasks.predict_job import predict_folder
from gtsa_kit.tasks.predict_plan import PredictOptions

SHOWN = 0.3
OPTIONS = {"short_side": 64, "threshold": SHOWN, "workers": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_random_task(folder, task_spec("mask-rcnn"))
    return folder


@pytest.fixture(scope="module")
def mixed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several shapes, one of them turned by its EXIF orientation, and a file that is none."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "ü").mkdir()
    picture, exif = Image.open(images / "p3.jpg"), Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "ü" / "é.jpg")
    picture.resize((150, 90)).save(folder / "wide.png")
    picture.save(folder / "rotated.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    (folder / "text.png").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def predicted(model: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted")
    summary = predict_folder(model, mixed, out, PredictOptions(**OPTIONS, overlay=True))
    assert (summary.rows, summary.errors, summary.total) == (4, 1, 5)
    return out


def results(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text(encoding="utf-8"))


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_the_detections_of_the_model_in_pixels_of_the_upright_image(
    predicted: Path, mixed: Path, model: Path
) -> None:
    task_model, checked = load_task_model(model), 0
    for row in rows(predicted):
        image = open_image(mixed / row["path"])
        assert (int(row["width"]), int(row["height"])) == image.size
        scale = 64 / min(image.size) / 16
        size = round(image.height * scale) * 16, round(image.width * scale) * 16
        with torch.no_grad():
            expected = task_model(torch.from_numpy(task_model.encoder.preprocessing(image, size))[None])
        own = [one for one in results(predicted) if one["file_name"] == row["path"]]
        assert {one["image_id"] for one in own} <= {int(row["image_id"])}
        scores, sides = expected.scores[0].numpy(), np.array([image.width / size[1], image.height / size[0]] * 2)
        clear = [i for i, score in enumerate(scores) if score > SHOWN + 0.02]
        boxes = np.array([one["bbox"] for one in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        for i in clear:  # the faster resize of prediction differs by a level
            box = expected.boxes[0, i].numpy() * sides
            differences = abs(boxes - box).max(axis=1, initial=0) + 1e3 * np.array(
                [one["category_id"] != LABELS[expected.labels[0, i]].id for one in own]
            )
            best = int(differences.argmin())
            assert differences[best] < 0.03 * max(image.size)
            assert own[best]["score"] == pytest.approx(scores[i], abs=0.02)
            checked += 1
        counts = [int(row[f"count_{label.name}"]) for label in LABELS]
        assert counts == [sum(one["category_id"] == label.id for one in own) for label in LABELS]
        assert int(row["detections"]) == len(own) == sum(counts)
    assert checked >= 10
    assert [one["score"] for one in own] == sorted((one["score"] for one in own), reverse=True)
    errors = [json.loads(line) for line in (predicted / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [error["path"] for error in errors] == ["text.png"]
    labels = json.loads((predicted / "labels.json").read_text(encoding="utf-8"))
    assert [(label["id"], label["name"]) for label in labels] == [(label.id, label.name) for label in LABELS]


def test_pycocotools_loads_the_results(predicted: Path) -> None:
    coco_api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    truth = coco_api.COCO()
    images = [{"id": int(r["image_id"]), "width": int(r["width"]), "height": int(r["height"])} for r in rows(predicted)]
    categories = [{"id": label.id, "name": label.name} for label in LABELS]
    truth.dataset = {"images": images, "categories": categories, "annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(str(predicted / "predictions.json"))
    assert len(loaded.anns) == len(results(predicted)) > 10
    for one in loaded.anns.values():
        image = truth.imgs[one["image_id"]]
        assert loaded.annToMask(one).shape == (image["height"], image["width"])


def test_overlays_have_the_size_of_the_upright_image(predicted: Path, mixed: Path) -> None:
    for row in rows(predicted):
        with Image.open(predicted / "overlays" / f"{row['path']}.jpg") as overlay:
            image = open_image(mixed / row["path"])
            assert (overlay.format, overlay.size) == ("JPEG", image.size)
            changed = abs(np.asarray(overlay).astype(int) - np.asarray(image)).max(axis=2) > 60
        assert (changed.mean() > 0.05) == (int(row["detections"]) > 0)


def test_predictions_in_memory_equal_those_in_files(predicted: Path, mixed: Path, model: Path) -> None:
    options = {"short_side": 64, "threshold": SHOWN, "batch_size": 2, "on_unreadable": lambda *_: None}
    for item in gtsa_kit.predict(model, mixed, **options):
        own = [one for one in results(predicted) if one["file_name"] == item.path]
        detections = item.detections
        assert detections is not None
        assert [LABELS[number].id for number in detections.classes] == [one["category_id"] for one in own]
        assert detections.scores == pytest.approx([one["score"] for one in own], abs=1e-6)
        if own:
            assert detections.mask(0).shape == (item.height, item.width)
            assert detections.rle(0) == own[0]["segmentation"]
    default = next(gtsa_kit.predict(model, mixed / "wide.png", short_side=64))
    assert default.detections is not None
    assert (default.detections.scores >= 0.5).all()


def test_a_model_without_masks_and_an_image_without_detections(images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_random_task(tmp_path / "run", task_spec("faster-rcnn"))
    for threshold in (SHOWN, 1.0):
        out = tmp_path / f"{threshold}"
        options = PredictOptions(size=(64, 64), threshold=threshold, overlay=True)
        predict_folder(tmp_path / "run", images / "p0.jpg", out, options)
        assert all("segmentation" not in one for one in results(out))
        assert bool(results(out)) == (threshold < 1)


def test_the_command_detects_and_says_what_is_wrong(
    model: Path, mixed: Path, images: Path, tmp_path: Path, gtsa_here: Callable
) -> None:
    out = tmp_path / "out"
    done = gtsa_here("predict", model, mixed, "--out", out, "--short-side", 64)
    assert done.returncode == 0, done.stderr
    assert "detections from a score of 0.5 on; --threshold chooses another one" in " ".join(done.stderr.split())
    assert all(one["score"] >= 0.5 for one in results(out))
    changed = gtsa_here("predict", model, mixed, "--out", out, "--short-side", 64, "--threshold", 0.6, "--resume")
    assert "threshold: 0.5 before, 0.6 now" in changed.stderr
    for options, words in (
        (["--rle"], "predictions.json holds the run lengths of a detector's masks"),
        (["--threshold", "1.5"], "--threshold must lie between 0.05"),
        (["--threshold", "0.01"], "from which on the model gives detections, and 1"),
    ):
        wrong = gtsa_here("predict", model, mixed, "--out", tmp_path / "wrong", *options)
        assert wrong.returncode == 2
        assert words in " ".join(wrong.stderr.split())


def test_results_with_ids_of_a_coco_file_are_scored_by_pycocotools(
    model: Path, images: Path, tmp_path: Path, gtsa_here: Callable
) -> None:
    """Labels that are the detections of the model itself, above a score, have a perfect AP."""
    coco_api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    folder, names = tmp_path / "photos", ["p0.jpg", "sub/p1.jpg", "sub/p2.jpg"]
    (folder / "sub").mkdir(parents=True)
    for name in names:
        shutil.copy(images / Path(name).name, folder / name)
    options = ["--size", 64, "--threshold", 0.3]
    assert gtsa_here("predict", model, folder, "--out", tmp_path / "a", *options).returncode == 0
    numbers = {name: 900 - 7 * i for i, name in enumerate(names)}
    content = {
        "images": [
            {"id": numbers[row["path"]], "file_name": f"val/{row['path']}"}
            | {side: int(row[side]) for side in ("width", "height")}
            for row in rows(tmp_path / "a")
        ],
        "categories": [{"id": label.id, "name": label.name} for label in LABELS],
        "annotations": [
            {
                **one,
                "id": i,
                "image_id": numbers[one["file_name"]],
                "iscrowd": 0,
                "area": one["bbox"][2] * one["bbox"][3],
            }
            for i, one in enumerate(results(tmp_path / "a"), start=1)
        ],
    }
    assert len(content["annotations"]) > 10
    val = tmp_path / "val.json"
    val.write_text(json.dumps(content))
    out = tmp_path / "b"
    done = gtsa_here("predict", model, folder, "--out", out, "--ids", val, *options)
    assert done.returncode == 0, done.stderr
    assert {one["file_name"]: one["image_id"] for one in results(out)}.items() <= numbers.items()
    assert {row["path"]: int(row["image_id"]) for row in rows(out)} == numbers
    truth = coco_api.COCO(str(val))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(str(out / "predictions.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)
    resumed = gtsa_here("predict", model, folder, "--out", out, "--resume", *options)
    assert "ids" in resumed.stderr  # another setting than before
    assert resumed.returncode == 2
    shutil.copy(images / "p0.jpg", folder / "other.jpg")
    refused = gtsa_here("predict", model, folder, "--out", tmp_path / "c", "--ids", val, *options)
    assert refused.returncode == 2
    assert "1 of 4 images are not in" in " ".join(refused.stderr.split())
    assert "other.jpg" in refused.stderr


def test_ids_are_matched_by_names_and_folders() -> None:
    ids = {"a/x.jpg": 1, "b/x.jpg": 2, "y.jpg": 3}
    assert match_image_ids(["a/x.jpg", "root/b/x.jpg", "c/y.jpg"], ids, "f") == {
        "a/x.jpg": 1,
        "root/b/x.jpg": 2,
        "c/y.jpg": 3,
    }
    for names, message in (
        (["x.jpg"], "1 of 1 images are not in f, or not clearly one of it: x.jpg"),
        (["c/x.jpg"], "not in f"),
        (["y.jpg", "c/y.jpg"], "y.jpg and c/y.jpg are both the image 3"),
    ):
        with pytest.raises(ValueError, match=message):
            match_image_ids(names, ids, "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "lists no images as COCO does"),
        ('{"images": [{"id": "1", "file_name": "a"}]}', "ids are numbers"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]}', "2 images of the name a"),
        ('{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}', "2 images with the id 1"),
    ],
)
def test_files_without_usable_ids_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_image_ids(tmp_path / "val.json")


def test_an_exported_file_detects_what_its_run_does(
    made: Callable[..., Path], task_run: Callable[[str], Path], mixed: Path
) -> None:
    """The ONNX file of the parity tests, on images of several shapes, as a whole and by windows."""
    whole = {"height": Range(32, 96), "width": Range(32, 96), "batch": Range(1, 3)}
    path = made("onnx", task_run("mask-rcnn"), **whole)
    for options in ({"size": (64, 96)}, {"tile": 96}):
        more = {"threshold": SHOWN, "on_unreadable": lambda *_: None, "device": "cpu", **options}
        expected = {item.path: item.detections for item in gtsa_kit.predict(task_run("mask-rcnn"), mixed, **more)}
        for item in gtsa_kit.predict(path, mixed, **more):
            reference, detections = expected.pop(item.path), item.detections
            assert reference is not None
            assert detections is not None
            if item.path == "dot.png":  # one color: many proposals have one score, and either order is right
                continue
            assert detections.classes.tolist() == reference.classes.tolist()
            np.testing.assert_allclose(detections.boxes, reference.boxes, atol=0.1)
            np.testing.assert_allclose(detections.scores, reference.scores, atol=1e-3)
        assert not expected
