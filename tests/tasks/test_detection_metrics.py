"""Average precision against pycocotools."""

import contextlib
import io
import json
import math
from typing import Any

import numpy as np
import pytest

from gtsa_kit.tasks.detection_metrics import NAMES, DetectionScorer
from gtsa_kit.tasks.rle import encode_rle

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")

Image = tuple[int, list[dict[str, Any]], list[dict[str, Any]], tuple[int, int]]
"""Number, true objects and detections of an image, and its size."""


def ellipse(box: np.ndarray, size: tuple[int, int]) -> dict[str, object]:
    y, x = np.mgrid[: size[0], : size[1]]
    (x0, y0), (x1, y1) = box[:2], box[2:]
    mask = ((x - (x0 + x1) / 2) / max((x1 - x0) / 2, 1)) ** 2 + ((y - (y0 + y1) / 2) / max((y1 - y0) / 2, 1)) ** 2 < 1
    return encode_rle(mask)


def random_images(count: int, classes: int, seed: int, crowd: float = 0.15, far: float = 0.3) -> list[Image]:
    """Return images with objects of all sizes, and detections near these, elsewhere and twice; some have none."""
    rng, images = np.random.default_rng(seed), []
    for number in range(count):
        size = int(rng.integers(150, 260)), int(rng.integers(150, 260))
        limit = np.array([size[1], size[0]] * 2)
        truth: list[dict[str, Any]] = []
        detections: list[dict[str, Any]] = []
        for _ in range(int(rng.integers(0, 7)) if number % 5 else 0):
            low = rng.uniform(0, limit[:2] * 0.6)
            box = np.concatenate([low, np.minimum(low + np.exp(rng.uniform(1.5, 5.5, 2)), limit[:2])])
            class_number = int(rng.integers(0, classes))
            item = {"bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()], "category_id": class_number}
            area = float(np.prod(box[2:] - box[:2])) * 0.7
            truth.append(
                item | {"iscrowd": int(rng.random() < crowd), "area": area, "segmentation": ellipse(box, size)}
            )
            for _ in range(int(rng.integers(0, 3)) if number % 7 else 0):
                guessed = np.sort((box + rng.normal(0, 2, 4)).clip(0, limit).reshape(2, 2), axis=0).ravel()
                if rng.random() < far:
                    guessed = np.concatenate([rng.uniform(0, limit[:2] * 0.5), limit[:2] * rng.uniform(0.5, 1)])
                guess = class_number if rng.random() < 0.8 else int(rng.integers(0, classes))
                score = float(rng.choice([rng.random(), 0.5]))  # with ties
                detections.append({"box": guessed, "score": score, "class": guess, "mask": ellipse(guessed, size)})
        images.append((number, truth, detections, size))
    return images


def scorer_of(images: list[Image], classes: int, masks: bool = True) -> DetectionScorer:
    scorer = DetectionScorer(classes, masks)
    for number, truth, detections, size in images:
        boxes, scores, numbers, runs = ([item[key] for item in detections] for key in ("box", "score", "class", "mask"))
        scorer.add(number, np.array(boxes), np.array(scores), np.array(numbers), runs if masks else None, truth, size)
    return scorer


def pycocotools_evaluation(images: list[Image], classes: int, kind: str) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for number, truth, detections, _ in images:
        annotations += [item | {"image_id": number, "id": len(annotations) + i} for i, item in enumerate(truth, 1)]
        for item in detections:
            x0, y0, x1, y1 = map(float, item["box"])
            own = {"bbox": [x0, y0, x1 - x0, y1 - y0]} if kind == "bbox" else {"segmentation": item["mask"]}
            results.append({"image_id": number, "category_id": item["class"], "score": item["score"]} | own)
    listed = [{"id": number, "height": size[0], "width": size[1]} for number, _, _, size in images]
    oracle = COCO()
    categories = [{"id": i, "name": str(i)} for i in range(classes)]
    oracle.dataset = {"info": {}, "images": listed, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        oracle.createIndex()
        evaluation = COCOeval(oracle, oracle.loadRes(json.loads(json.dumps(results))), kind)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return evaluation


def assert_equal(value: float, oracle: float) -> None:
    if oracle < 0:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(100 * oracle, rel=0, abs=1e-10)  # 1e-12 of a number from 0 to 1


@pytest.mark.parametrize(("count", "classes", "seed", "crowd"), [(30, 3, 0, 0.15), (20, 40, 1, 0.5), (12, 1, 2, 0.0)])
def test_the_twelve_numbers_and_each_class_are_those_of_pycocotools(
    count: int, classes: int, seed: int, crowd: float
) -> None:
    images = random_images(count, classes, seed, crowd)
    scorer = scorer_of(images, classes)
    scores = scorer.scores()
    assert 2 < scores["ap"] < 95
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        oracle = pycocotools_evaluation(images, classes, kind)
        for name, expected in zip(NAMES, oracle.stats, strict=True):
            assert_equal(scores[prefix + name], expected)
        precision = oracle.eval["precision"]
        for number, value in enumerate(scores[f"{prefix}ap_by_class"]):
            own = precision[:, :, number, 0, 2]
            assert_equal(value, own[own > -1].mean() if (own > -1).any() else -1)
        curves = scorer.curves(masks=kind == "segm")
        np.testing.assert_allclose(curves.recall, oracle.params.recThrs)
        expected = np.where(precision[0, :, :, 0, 2].T < 0, np.nan, precision[0, :, :, 0, 2].T)
        np.testing.assert_allclose(curves.precision, expected, rtol=0, atol=1e-12)


def test_images_without_detections_or_objects() -> None:
    images = random_images(10, 3, 3)
    nothing = [(number, truth, [], size) for number, truth, _, size in images]
    scores = scorer_of(nothing, 3).scores()
    assert scores["ap"] == scores["mask_ap"] == scores["ar100"] == 0
    empty = scorer_of([(number, [], detections, size) for number, _, detections, size in images], 3).scores()
    assert all(math.isnan(empty[name]) for name in NAMES)
    assert all(math.isnan(value) for value in empty["ap_by_class"])
    alone = scorer_of(images, 3, masks=False).scores()
    assert alone["ap"] == scorer_of(images, 3).scores()["ap"]
    assert "mask_ap" not in alone
    with pytest.raises(ValueError, match="there are no images to score"):
        DetectionScorer(3, True).scores()


def test_what_can_not_be_scored_is_refused() -> None:
    box, one = np.array([[1.0, 2, 3, 4]]), np.ones(1)
    with pytest.raises(ValueError, match="not finite"):
        DetectionScorer(2, False).add(0, box * np.nan, one, np.zeros(1, int), None, [], (8, 8))
    with pytest.raises(ValueError, match="none of 0 to 1"):
        DetectionScorer(2, False).add(0, box, one, np.array([2]), None, [], (8, 8))


def test_masks_as_bytes_and_as_text_score_alike() -> None:
    images = random_images(6, 2, 4)
    as_bytes = json.loads(json.dumps([(n, truth, [], size) for n, truth, _, size in images]))
    for image, (_, _, detections, _) in zip(as_bytes, images, strict=True):
        image[2] = detections
        for item in image[1]:
            item["segmentation"]["counts"] = item["segmentation"]["counts"].encode()
    np.testing.assert_equal(scorer_of([tuple(image) for image in as_bytes], 2).scores(), scorer_of(images, 2).scores())
