"""Detections over HTTP against the PyTorch model and the predictions of folders."""

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService, ServiceFactory, SlowRunner
from helpers.task_models import LABELS, save_random_task, task_spec
from PIL import Image
from safetensors.numpy import load as load_safetensors

from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.service import AsyncClient, Client, ServiceError, task_extract
from gtsa_kit.tasks.detections import ImageDetections
from gtsa_kit.tasks.predict import predict
from gtsa_kit.tasks.predictor import Predictor, open_predictor
from gtsa_kit.tasks.rle import encode_rle

SHOWN = 0.3


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("detector")
    save_random_task(folder, task_spec("mask-rcnn"))
    return open_predictor(folder, LoadOptions("cpu"))


@pytest.fixture(scope="module")
def detect_service(start_service: ServiceFactory, detector: Predictor) -> Iterator[RunningService]:
    with start_service(detector) as running:
        yield running
        assert running.drains(), running.limiter


def post(service: RunningService, content: bytes, path: str = "/v1/detect", **query: Any) -> Any:
    with service.client() as client:
        return client.post(path, params=query, content=content, headers={"Content-Type": "image/png"})


def expected(detector: Predictor, picture: np.ndarray, threshold: float = SHOWN) -> ImageDetections:
    """Detections of the folder's code, which test_predict_detections compares with the model's."""
    detections = next(predict(detector, [picture], size=(64, 96), threshold=threshold)).detections
    assert detections is not None
    assert len(detections) >= 2
    return detections


def test_each_format_holds_the_detections_of_the_model(detect_service: RunningService, detector: Predictor) -> None:
    picture, query = scene(50, 90), {"size": "64x96", "threshold": SHOWN}
    body, reference = encoded(picture, "PNG"), expected(detector, picture)
    plain = post(detect_service, body, **query).json()
    assert (plain["width"], plain["height"], plain["input_size"], plain["orientation"]) == (90, 50, [64, 96], 1)
    assert [one["number"] for one in plain["detections"]] == reference.classes.tolist()
    for one, score, box in zip(plain["detections"], reference.scores, reference.boxes, strict=True):
        label = LABELS[one["number"]]
        assert (one["label"], one["id"], "mask" in one) == (label.name, label.id, False)
        assert one["score"] == pytest.approx(score, abs=1e-4)
        assert one["box"] == pytest.approx(box.tolist(), abs=1e-2)
    with_masks = post(detect_service, body, masks=True, **query).json()["detections"]
    with np.load(io.BytesIO(post(detect_service, body, format="npz", masks=True, **query).content)) as npz:
        assert json.loads(str(npz["metadata"]))["detections"] == plain["detections"]
        assert (npz["masks"].dtype, npz["masks"].shape) == (np.uint8, (len(reference), 50, 90))
        np.testing.assert_allclose(npz["boxes"], reference.boxes, atol=1e-2)
        for i, one in enumerate(with_masks):
            assert one["mask"] == encode_rle(npz["masks"][i].astype(bool))
            assert (npz["masks"][i] == reference.mask(i)).mean() > 0.999
    safe = load_safetensors(post(detect_service, body, format="safetensors", **query).content)
    assert sorted(safe) == ["boxes", "labels", "scores"]
    assert safe["labels"].tolist() == reference.classes.tolist()
    png = post(detect_service, body, format="png", **query)
    assert png.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(png.content)) as drawn:
        assert drawn.size == (90, 50)
        assert abs(np.asarray(drawn).astype(int) - picture).max(axis=2).mean() > 5


def test_nothing_above_the_threshold_is_an_empty_list(detect_service: RunningService) -> None:
    body = encoded(scene(), "PNG")
    assert post(detect_service, body, threshold=1).json()["detections"] == []
    safe = load_safetensors(post(detect_service, body, threshold=1, masks=True, format="safetensors").content)
    assert (safe["boxes"].shape, safe["scores"].shape, safe["masks"].shape) == ((0, 4), (0,), (0, *scene().shape[:2]))
    default = post(detect_service, body).json()["detections"]
    assert all(one["score"] >= 0.5 for one in default)


def test_boxes_are_upright(detect_service: RunningService) -> None:
    picture, exif = Image.fromarray(scene(40, 70)), Image.Exif()
    exif[0x0112] = 6
    responses = [
        post(detect_service, content, threshold=SHOWN, size="96x64").json()
        for content in (encoded(picture, "PNG", exif=exif), encoded(picture.rotate(-90, expand=True), "PNG"))
    ]
    assert [(response["width"], response["height"], response["orientation"]) for response in responses] == [
        (40, 70, 6),
        (40, 70, 1),
    ]
    assert responses[0]["detections"] == responses[1]["detections"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"threshold": 0.01}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": "nan"}, "threshold"),
        ({"format": "rle"}, "format"),
        ({"format": "png", "masks": True}, "masks"),
        ({"head": "road"}, "head"),
        ({"size": "50"}, "size"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_wrong_parameters_are_422_by_name(detect_service: RunningService, query: dict[str, Any], field: str) -> None:
    response = post(detect_service, encoded(scene(), "PNG"), **query)
    assert (response.status_code, response.json()["error"]["param"]) == (422, field)


def test_limits_and_other_tasks(
    detect_service: RunningService, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = encoded(scene(), "PNG")
    assert post(detect_service, body[:60]).json()["error"]["code"] == "undecodable_image"
    assert post(detect_service, b"x" * (21 << 20)).status_code == 413
    other = post(detect_service, body, "/v1/segment")
    assert other.status_code == 404
    assert "it answers /v1/detect" in other.json()["error"]["message"]
    none = post(service, body)
    assert none.status_code == 404
    assert "this model does not detect objects; it computes features" in none.json()["error"]["message"]
    with detect_service.client() as client:
        labels = client.get("/v1/model").json()["tasks"]["detect"]["labels"]
        assert [(label["id"], label["name"]) for label in labels] == [(label.id, label.name) for label in LABELS]
        assert client.get("/v1/models").json()["data"][0]["tasks"]["detect"]["task"] == "detect"
    monkeypatch.setattr(task_extract, "MAX_PROBABILITY_BYTES", 1000)
    error = post(detect_service, body, masks=True, format="npz").json()["error"]
    assert (error["param"], "the format json holds their run lengths" in error["message"]) == ("masks", True)
    assert post(detect_service, body, masks=True).status_code == 200


def test_a_detector_of_boxes_has_no_masks(start_service: ServiceFactory, tmp_path: Any) -> None:
    save_random_task(tmp_path, task_spec("faster-rcnn"))
    with start_service(open_predictor(tmp_path, LoadOptions("cpu"))) as running:
        body = encoded(scene(), "PNG")
        assert post(running, body, threshold=SHOWN).json()["detections"]
        assert post(running, body, masks=True).json()["error"]["param"] == "masks"
        assert post(running, body, format="png").status_code == 200


def test_clients_detect(detect_service: RunningService, detector: Predictor) -> None:
    picture = scene(50, 90)
    reference = expected(detector, picture)
    with Client(detect_service.url) as client:
        one = client.detect(picture, size=(64, 96), threshold=SHOWN, masks=True)
        np.testing.assert_allclose(one["boxes"], reference.boxes, atol=1e-2)
        assert one["masks"].shape == (len(reference), 50, 90)
        several = client.detect([picture, b"no image"], size=(64, 96), threshold=SHOWN)
        assert several[0]["labels"].tolist() == reference.classes.tolist()
        assert isinstance(several[1], ServiceError)


def test_images_of_one_shape_share_batches(start_service: ServiceFactory, detector: Predictor) -> None:
    slow = SlowRunner(detector.runner, 0.1)
    reference = expected(detector, scene(50, 90))

    async def ask(url: str) -> Any:
        async with AsyncClient(url) as client:
            requests = (client.detect(scene(50, 90), size=(64, 96), threshold=SHOWN) for _ in range(6))
            return await asyncio.gather(*requests)

    with start_service(replace(detector, runner=slow)) as running:
        slow.batches.clear()
        responses = asyncio.run(ask(running.url))
    assert len(slow.batches) < 6
    for response in responses:
        np.testing.assert_allclose(response["scores"], reference.scores, atol=1e-3)
