"""Scores of detectors on labeled images, against torch's own model, torchvision's masks and pycocotools."""

import contextlib
import io
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.task_models import LABELS
from PIL import Image
from torchvision.models.detection.roi_heads import paste_masks_in_image

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.rle_text import decode_counts, mask_of_counts
from gtsa_kit.evaluation.task_table import score_table
from gtsa_kit.export import load
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.models.task_model import load_task_model
from gtsa_kit.tasks.evaluate import evaluate
from gtsa_kit.tasks.inputs import image_input, input_policy
from gtsa_kit.tasks.labeled_objects import read_labeled_objects
from gtsa_kit.tasks.rle import encode_rle
from gtsa_kit.tasks.score import compare_scores, read_labeled_images, score, score_all
from gtsa_kit.tasks.state import FinetuneCallback

pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
pytest.importorskip("pycocotools", reason="pycocotools is not installed")

NAMES = [label.name for label in LABELS]
IDS = {name: 10 - i for i, name in enumerate(NAMES)}
"""Category ids of the data, in another order than the classes of the model."""


def picture(index: int) -> Image.Image:
    rng = np.random.default_rng(index)
    size = (70 + 10 * (index % 2), 50)
    return Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def results_of(run: Path, index: int) -> list[dict[str, Any]]:
    """Return the detections of an image as COCO's results, by torch's model and torchvision's masks."""
    model, image = load_task_model(run), picture(index)
    pixels = torch.from_numpy(image_input(image, input_policy(model.spec, model.encoder), model.encoder))[None]
    with torch.inference_mode():
        output = model(pixels)
    scale = torch.tensor([image.width / pixels.shape[3], image.height / pixels.shape[2]] * 2)
    boxes = output.boxes[0] * scale
    masks = None
    if output.masks is not None:
        masks = paste_masks_in_image(output.masks[0][:, None], boxes, (image.height, image.width))[:, 0] > 0.5
    results = []
    for i in torch.nonzero(output.scores[0] > 0).flatten().tolist():
        x0, y0, x1, y1 = boxes[i].double().tolist()
        item = {"image_id": index, "score": float(output.scores[0, i]), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        item["category_id"] = IDS[NAMES[int(output.labels[0, i])]]
        results.append(item | ({"segmentation": encode_rle(masks[i].numpy())} if masks is not None else {}))
    return results


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory, task_run) -> Path:
    """Three images in val and one in train, which must not count; their objects are moved detections of the model."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "images").mkdir()
    contents: dict[str, dict[str, list[Any]]] = {}
    for index, split in enumerate(["val", "val", "val", "train"]):
        image, rng = picture(index), np.random.default_rng(index)
        image.save(folder / "images" / f"{index}.png")
        content = contents.setdefault(split, {"images": [], "annotations": []})
        listed = {"id": index, "file_name": f"{index}.png", "width": image.width, "height": image.height}
        content["images"].append(listed)
        for item in results_of(task_run("mask-rcnn"), index)[::3][:6]:
            x, y, w, h = item["bbox"]
            x0, y0 = max(0.0, x + rng.normal()), max(0.0, y + rng.normal())
            x1, y1 = min(image.width, x + w), min(image.height, y + h)
            mask = mask_of_counts(decode_counts(item["segmentation"]["counts"].encode()), (image.height, image.width))
            if min(x1 - x0, y1 - y0) < 2 or not mask.any():
                continue
            moved = encode_rle(np.roll(mask, index % 2, axis=1))
            item |= {"id": 1 + 100 * index + len(content["annotations"]), "segmentation": moved}
            content["annotations"].append(item | {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0, "area": w * h})
    categories = [{"id": number, "name": name} for name, number in IDS.items()]
    for split, content in contents.items():
        (folder / f"{split}.json").write_text(json.dumps(content | {"categories": categories}))
    return folder


def oracle_scores(run: Path, labels: Path, kind: str) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(labels))
        other = "segmentation" if kind == "bbox" else "bbox"
        results = [item for index in truth.getImgIds() for item in results_of(run, index)]
        results = [{key: value for key, value in item.items() if key != other} for item in results]
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return [100 * float(value) for value in evaluation.stats]


def test_scores_are_those_of_pycocotools(labeled: Path, task_run) -> None:
    run = task_run("mask-rcnn")
    data = read_labeled_images(labeled, "detect", LABELS)
    assert [path.name for path in data.paths] == ["0.png", "1.png", "2.png"]
    scores = score_all(load(run, "cpu"), data)
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        expected = oracle_scores(run, labeled / "val.json", kind)
        assert 2 < expected[0] < 95
        assert scores[f"{prefix}ap"] == pytest.approx(expected[0], abs=0.05)
        assert scores[f"{prefix}ap50"] == pytest.approx(expected[1], abs=0.05)
        assert scores[f"{prefix}ar100"] == pytest.approx(expected[8], abs=0.05)
    assert score(load(run, "cpu"), data) == scores["mask_ap"]
    record = compare_scores(30.0, 29.4, data, 0.5)
    assert (record.metric, record.images, record.passed) == ("mask AP", 3, False)
    boxes = read_labeled_images(labeled, "detect", LABELS, masks=False)
    assert score(load(task_run("faster-rcnn"), "cpu"), boxes) == pytest.approx(
        oracle_scores(task_run("faster-rcnn"), labeled / "val.json", "bbox")[0], abs=0.05
    )
    assert compare_scores(30.0, 29.6, boxes, 0.5).metric == "AP"


def test_classes_are_matched_by_name_and_unknown_ones_refused(labeled: Path, tmp_path: Path) -> None:
    objects = read_labeled_objects(labeled, NAMES, masks=True)
    content = json.loads((labeled / "val.json").read_text())
    names = {number: name for name, number in IDS.items()}
    for index in range(3):
        expected = [names[item["category_id"]] for item in content["annotations"] if item["image_id"] == index]
        assert [NAMES[item["category_id"]] for item in objects.read(index).annotations] == expected
    with pytest.raises(ValueError, match=r"has objects of the class '\w+', the model has sky; give data with these"):
        read_labeled_objects(labeled, NAMES[:1], masks=True)
    separate = read_labeled_objects(labeled / "images", NAMES, True, labeled / "val.json")
    assert separate.paths == objects.paths
    content["annotations"] = [{**item, "iscrowd": 1} for item in content["annotations"]]
    (tmp_path / "crowd.json").write_text(json.dumps(content))
    assert len(read_labeled_objects(labeled / "images", NAMES, True, tmp_path / "crowd.json").read(0).annotations)


def test_eval_detect_writes_a_report_and_a_figure(gtsa_here, labeled: Path, task_run, tmp_path: Path) -> None:
    runs = [task_run("mask-rcnn"), task_run("faster-rcnn")]
    done = gtsa_here("eval", "detect", *runs, "--images", labeled, "--out", tmp_path, "--figure-format", "svg")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "detect.json").read_text())
    first, second = report["models"]
    assert first["mask_ap"] == pytest.approx(oracle_scores(runs[0], labeled / "val.json", "segm")[0], abs=0.05)
    assert set(first["ap_by_class"]) == set(NAMES)
    assert "mask_ap" not in second
    assert second["ap"] is not None
    assert (tmp_path / "detect.svg").stat().st_size > 1000
    assert "AP50" in done.stdout
    named = ["--images", labeled / "images", "--annotations", labeled / "val.json", "--out", tmp_path, "--json"]
    again = gtsa_here("eval", "detect", runs[1], *named)
    assert json.loads(again.stdout)["models"][0]["ap"] == second["ap"]
    wrong = gtsa_here("eval", "detect", task_run("classify"), "--images", labeled, "--out", tmp_path)
    assert wrong.returncode == 2
    assert "is for the task classify, not for detect" in wrong.stderr


def test_export_and_verify_score_a_detector(gtsa_here, labeled: Path, few: Path, task_run, tmp_path: Path) -> None:
    run, file = task_run("mask-rcnn"), tmp_path / "model.ts"
    options = ["--format", "torchscript", "--size", 224, "--batch", "1:2", "--out", file, "--images", few]
    done = gtsa_here("export", run, *options, "--score", labeled, "--json")
    assert done.returncode == 0, done.stderr
    record = read_manifest(file).task_score
    assert record is not None
    assert (record.metric, record.images, record.passed) == ("mask AP", 3, True)
    assert record.source == pytest.approx(oracle_scores(run, labeled / "val.json", "segm")[0], abs=0.05)
    assert record.artifact == pytest.approx(record.source, abs=0.05)
    assert json.loads(done.stdout)["artifacts"][0]["manifest"]["task_score"]["metric"] == "mask AP"
    verified = gtsa_here("verify", file, "--images", few, "--score", labeled)
    assert verified.returncode == 0, verified.stderr
    assert f"float32 model {record.source:.2f}%" in verified.stderr


def test_processes_share_the_validation_images(labeled: Path, task_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes score what one does; here they run one after the other, and exchange pickled scorers."""
    objects, model = read_labeled_objects(labeled, NAMES, masks=True), load_task_model(task_run("mask-rcnn"))
    data = SimpleNamespace(
        validation=np.ones(3, bool),
        files=lambda index: (objects.paths[index],),
        size=lambda index: picture(index).size,
        label=objects.read,
        reader=ImageReader(),
    )
    sent: dict[int, bytes] = {}

    def run(rank: int, world: int) -> dict[str, Any]:
        def gather(parts: list[Any], own: Any) -> None:
            sent[rank] = pickle.dumps(own)
            parts[:] = [pickle.loads(sent.get(other, sent[rank])) for other in range(world)]

        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        fabric = SimpleNamespace(global_rank=rank, world_size=world)
        state: Any = SimpleNamespace(model=model, trained=model, fabric=fabric, data=data, val_features=None)
        return evaluate(state, FinetuneCallback())

    alone, first = run(0, 1), run(1, 2)
    assert alone["mask_ap"] > 2
    assert first["mask_ap"] != alone["mask_ap"]  # the second image, without what the other process has
    np.testing.assert_equal(run(0, 2), alone)
    assert {len(pickle.loads(content).detections) for content in sent.values()} == {1, 2}


@pytest.mark.parametrize("masks", [True, False])
def test_the_table_has_the_scores_that_runs_have(tmp_path: Path, masks: bool) -> None:
    scores = {"ap": 3.0, "ap50": 9.0, "ap75": 1.0} | ({"mask_ap": 2.0, "mask_ap50": 7.0} if masks else {})
    common = {"weights": "a", "head": "mask-rcnn", "frozen": True, "steps": 5, "split": "as it is"}
    (tmp_path / "scores.json").write_text(json.dumps(scores | common))
    report = score_table("detect", {("row", 0): (tmp_path, None)})  # type: ignore[dict-item]
    assert list(report.measures) == list(scores)
    assert {key: report.rows[0][key] for key in scores} == scores
