"""Masks and classes over HTTP, of a task model and of several heads on one encoder, against the PyTorch model."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService, ServiceFactory
from helpers.served_heads import open_heads
from helpers.task_models import LABELS, random_task_model, save_random_task, task_spec
from PIL import Image
from safetensors.numpy import load as load_safetensors
from torchvision.transforms import v2

from gtsa_kit.export import Runner, load
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model
from gtsa_kit.service import AsyncClient, Client, ServiceError, task_extract
from gtsa_kit.tasks.heads import check_head, open_with_heads
from gtsa_kit.tasks.predictor import Predictor, open_predictor

IDS = np.array([label.id for label in LABELS], np.uint8)


def open_run(folder: Path, kind: str) -> Predictor:
    save_random_task(folder, task_spec(kind))
    return open_predictor(folder, LoadOptions("cpu"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return open_run(tmp_path_factory.mktemp("segment"), "fpn flat")


@pytest.fixture(scope="module")
def segment_service(start_service: ServiceFactory, segmenter: Predictor) -> Iterator[RunningService]:
    with start_service(segmenter) as running:
        yield running
        assert running.drains(), running.limiter


def post(service: RunningService, path: str, content: bytes, **query: Any) -> Any:
    with service.client() as client:
        return client.post(path, params=query, content=content, headers={"Content-Type": "image/png"})


def expected_logits(model: TaskModel, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Logits at the size of the image, or of classes."""
    with torch.no_grad():
        logits = model(torch.from_numpy(model.encoder.preprocessing(Image.fromarray(picture), size))[None])
        if logits.ndim == 4:
            logits = F.interpolate(logits, picture.shape[:2], mode="bilinear", align_corners=False)
    return np.asarray(logits[0])


def agreement(mask: np.ndarray, logits: np.ndarray) -> float:
    return float((mask == logits.argmax(0)).mean())


def test_each_format_holds_the_mask_of_the_model(segment_service: RunningService, segmenter: Predictor) -> None:
    picture, size = scene(50, 90), {"size": "64x96"}
    body = encoded(picture, "PNG")
    logits = expected_logits(random_task_model(task_spec("fpn flat")), picture, (64, 96))
    response = post(segment_service, "/v1/segment", body, **size)
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as png:
        assert (png.mode, png.size) == ("P", (90, 50))
        palette, values = np.array(png.getpalette()).reshape(-1, 3), np.asarray(png)
    assert palette[IDS].tolist() == [list(label.color) for label in LABELS]
    mask = np.searchsorted(IDS, values)
    assert agreement(mask, logits) > 0.999

    with np.load(
        io.BytesIO(post(segment_service, "/v1/segment", body, format="npz", probabilities=True, **size).content)
    ) as npz:
        metadata = json.loads(str(npz["metadata"]))
        assert (npz["mask"] == mask).all()
        np.testing.assert_allclose(npz["probabilities"], torch.from_numpy(logits).softmax(0), atol=2e-3)
    safe = load_safetensors(post(segment_service, "/v1/segment", body, format="safetensors", **size).content)
    assert (safe["mask"] == mask).all()
    assert "probabilities" not in safe
    plain = post(segment_service, "/v1/segment", body, format="json", **size).json()
    assert plain == metadata
    assert (plain["width"], plain["height"], plain["input_size"]) == (90, 50, [64, 96])
    shares = {one["name"]: one["share"] for one in plain["classes"]}
    assert sum(shares.values()) == pytest.approx(1)
    for number, label in enumerate(LABELS):
        assert shares.get(label.name, 0) == pytest.approx((mask == number).mean())
    rle = post(segment_service, "/v1/segment", body, format="rle", **size).json()
    assert {one["category_id"]: one["area"] for one in rle["segments"]} == {
        int(value): int((values == value).sum()) for value in np.unique(values)
    }


def test_images_with_a_class_are_cut_as_torchvision_cuts_them(start_service: ServiceFactory, tmp_path: Path) -> None:
    spec = replace(task_spec("classify"), crop_from=256)
    model = random_task_model(spec)
    save_task_model(tmp_path, model, {})
    image = Image.fromarray(scene(30, 90)).resize((600, 270), Image.Resampling.BICUBIC)
    cut = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])(image)
    with torch.no_grad():
        expected, whole = (
            model(torch.from_numpy(model.encoder.preprocessing(one, (224, 224)))[None]).softmax(1)[0]
            for one in (cut, image)
        )
    with start_service(open_predictor(tmp_path, LoadOptions("cpu"))) as running:
        classes = post(running, "/v1/classify", encoded(image, "PNG"), top_k=len(LABELS)).json()["classes"]
    given = [one["probability"] for one in sorted(classes, key=lambda one: one["number"])]
    assert given == pytest.approx(expected.tolist(), abs=1e-4)
    assert given != pytest.approx(whole.tolist(), abs=1e-3)  # the crop matters for this image


def test_masks_are_upright_and_of_any_size(segment_service: RunningService) -> None:
    picture = Image.fromarray(scene(40, 70))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        encoded(picture, "JPEG", exif=exif, quality=95): (40, 70),
        encoded(picture.rotate(-90, expand=True), "JPEG", quality=95): (40, 70),
        encoded(Image.new("RGB", (1, 1)), "PNG"): (1, 1),
        encoded(Image.fromarray(np.arange(3000, dtype=np.uint16).reshape(60, 50)), "PNG"): (50, 60),
    }
    masks = []
    for body, size in files.items():
        with Image.open(io.BytesIO(post(segment_service, "/v1/segment", body).content)) as png:
            assert png.size == size
            masks.append(np.asarray(png))
    assert (masks[0] == masks[1]).mean() > 0.98


def test_what_a_task_model_does_not_do_is_said(segment_service: RunningService, service: RunningService) -> None:
    body = encoded(scene(), "PNG")
    for path in ("/v1/features", "/v1/classify"):
        response = post(segment_service, path, body)
        assert response.status_code == 404
        assert "it answers /v1/segment" in response.json()["error"]["message"]
    with segment_service.client() as client:
        assert client.post("/v1/embeddings", json={"input": "aGVsbG8="}).json()["error"]["code"] == "no_features"
        pair = {"first": "aGVsbG8=", "second": "aGVsbG8="}
        assert client.post("/v1/similarity?point=1,1", json=pair).json()["error"]["code"] == "no_features"
        model = client.get("/v1/models").json()["data"][0]
        assert (model["dimensions"], list(model["tasks"])) == (None, ["segment"])
        assert [label["name"] for label in model["tasks"]["segment"]["labels"]] == [label.name for label in LABELS]
        assert client.get("/v1/model").json()["tasks"] == model["tasks"]
    response = post(service, "/v1/segment", body)
    assert response.status_code == 404
    assert "this model does not segment images; it computes features" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"format": "png", "probabilities": True}, "probabilities"),
        ({"format": "gif"}, "format"),
        ({"head": "road"}, "head"),
        ({"head": "../road"}, "head"),
        ({"size": "50"}, "size"),
        ({"size": "4096"}, "size"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_wrong_parameters_are_422_by_name(segment_service: RunningService, query: dict[str, Any], field: str) -> None:
    response = post(segment_service, "/v1/segment", encoded(scene(), "PNG"), **query)
    assert (response.status_code, response.json()["error"]["param"]) == (422, field)


def test_limits_hold_for_bodies_images_and_probabilities(
    segment_service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        post(segment_service, "/v1/segment", encoded(scene(), "PNG")[:60]).json()["error"]["code"]
        == "undecodable_image"
    )
    assert post(segment_service, "/v1/segment", b"x" * (21 << 20)).status_code == 413
    monkeypatch.setattr(task_extract, "MAX_PROBABILITY_BYTES", 1000)
    query = {"format": "npz", "probabilities": True}
    error = post(segment_service, "/v1/segment", encoded(scene(), "PNG"), **query).json()["error"]
    assert "above the limit" in error["message"]
    assert post(segment_service, "/v1/segment", encoded(scene(), "PNG"), format="npz").status_code == 200
    assert segment_service.drains()


def test_several_heads_answer_together_or_one_by_name(
    heads_service: RunningService, head_runs: dict[str, Path], runner: Runner
) -> None:
    picture = scene(50, 90)
    body, size = encoded(picture, "PNG"), {"size": "64x96"}
    logits = {name: expected_logits(load_task_model(path), picture, (64, 96)) for name, path in head_runs.items()}
    both = load_safetensors(post(heads_service, "/v1/segment", body, format="safetensors", **size).content)
    assert sorted(both) == ["defects.mask", "road.mask"]
    for name in ("road", "defects"):
        assert agreement(both[f"{name}.mask"], logits[name]) > 0.999
        one = load_safetensors(
            post(heads_service, "/v1/segment", body, format="safetensors", head=name, **size).content
        )
        assert (one["mask"] == both[f"{name}.mask"]).all()
    png = post(heads_service, "/v1/segment", body, head="defects", **size)
    assert set(np.unique(Image.open(io.BytesIO(png.content)))) <= {1, 2}
    refused = post(heads_service, "/v1/segment", body)
    assert "a png holds one mask; choose one of road, defects" in refused.json()["error"]["message"]
    weather = post(heads_service, "/v1/classify", body, top_k=2, **size).json()["classes"]
    probabilities = torch.from_numpy(logits["weather"]).softmax(0).numpy()
    assert [one["number"] for one in weather] == np.argsort(-probabilities)[:2].tolist()
    assert [one["probability"] for one in weather] == pytest.approx(np.sort(probabilities)[::-1][:2], abs=1e-4)
    features = load_safetensors(
        post(heads_service, "/v1/features", body, format="safetensors", dtype="float32", **size).content
    )
    expected = runner(runner.prepare(Image.fromarray(picture), (64, 96))[None])
    np.testing.assert_allclose(features["feature_map"], expected.feature_map[0], atol=2e-4)


def test_the_encoder_runs_once_for_all_heads(
    start_service: ServiceFactory, head_runs: dict[str, Path], runner: Runner, digest: str
) -> None:
    from helpers.running_service import SlowRunner

    slow = SlowRunner(runner, 0.0)
    with start_service(slow, heads=open_heads(head_runs, runner, digest)) as running:
        slow.batches.clear()
        assert post(running, "/v1/segment", encoded(scene(), "PNG"), format="json").status_code == 200
    assert len(slow.batches) == 1


def test_heads_of_another_encoder_or_without_their_maps_are_refused(
    head_runs: dict[str, Path], runner: Runner, digest: str, tmp_path: Path
) -> None:
    save_random_task(tmp_path, task_spec("linear"))
    with pytest.raises(ValueError, match="--head road was trained on another encoder"):
        open_heads({"road": tmp_path}, runner, digest)
    own = runner.manifest.model_copy(update={"weights_sha256": digest})
    without = own.model_copy(update={"outputs": own.outputs[:2]})
    (defects,) = open_heads({"defects": head_runs["defects"]}, runner, digest)
    with pytest.raises(ValueError, match=r"--head defects takes feature_map_0, .*--layers 0,1"):
        check_head(defects, without)
    dark = own.model_copy(update={"preprocessing": own.preprocessing | {"mean": (0.5,) * 3}})
    with pytest.raises(ValueError, match="--head defects was trained on images of another normalization"):
        check_head(defects, dark)
    model = load_task_model(head_runs["road"])
    model.spec = replace(model.spec, final_norm=False)
    save_task_model(tmp_path, model, {})
    with pytest.raises(ValueError, match="--head road: the head takes maps before the final norm"):
        open_heads({"road": tmp_path}, runner, digest)
    with pytest.raises(ValueError, match=r"--head road: .* holds no head"):
        open_heads({"road": tmp_path / "none"}, runner, digest)


def test_an_encoder_of_weights_gives_the_maps_of_its_heads_and_a_task_model_takes_none(
    artifact: Path, head_runs: dict[str, Path]
) -> None:
    def open_model(path: Path, options: LoadOptions) -> Runner:
        return load(path, **options.arguments())

    opened, heads = open_with_heads(artifact, LoadOptions("cpu"), head_runs, open_model)
    assert (opened.manifest.layers, [head.name for head in heads]) == ((0, 1), ["road", "defects", "weather"])
    with pytest.raises(ValueError, match="has a head of its own; omit --head"):
        open_with_heads(head_runs["road"], LoadOptions("cpu"), head_runs, open_model)


@pytest.mark.parametrize("name", ["defects", "weather"])
def test_files_of_heads_give_the_logits_of_their_runs(
    name: str, head_runs: dict[str, Path], runner: Runner, digest: str, images: Path, tmp_path: Path
) -> None:
    from gtsa_kit.export.head_export import export_head_artifact
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.source import open_source
    from gtsa_kit.export.spec import ExportOptions

    path = tmp_path / "head.onnx"
    export_head_artifact(open_source(head_runs[name]), path, ExportOptions(), load_parity_images(images))
    features = runner(runner.prepare(Image.fromarray(scene(50, 90)), (64, 96))[None])
    (of_run,), (of_file,) = (open_heads({name: one}, runner, digest) for one in (head_runs[name], path))
    assert replace(of_run, run=of_file.run, preprocessing=of_file.preprocessing) == of_file
    np.testing.assert_allclose(of_file(features), of_run(features), atol=2e-4)


def test_heads_trained_at_different_sizes_need_a_size(
    start_service: ServiceFactory, head_runs: dict[str, Path], runner: Runner, digest: str
) -> None:
    road, defects, _ = open_heads(head_runs, runner, digest)
    other = replace(defects, short_side=64)
    with start_service(heads=[road, other]) as running:
        body = encoded(scene(40, 80), "PNG")
        error = post(running, "/v1/segment", body, format="json").json()["error"]
        assert "the heads were trained at different sizes (road: a square, defects: 64)" in error["message"]
        one = post(running, "/v1/segment", body, format="json", head="defects").json()
        assert one["input_size"] == [64, 128]
        assert post(running, "/v1/segment", body, format="json", size="32").status_code == 200


def test_clients_give_masks_and_classes(heads_service: RunningService) -> None:
    import asyncio

    picture = scene(50, 90)
    with Client(heads_service.url) as client:
        one = client.segment(picture, head="road", size=64, probabilities=True)
        assert (one["mask"].shape, one["mask"].dtype) == ((50, 90), np.uint8)
        assert one["probabilities"].shape == (5, 50, 90)
        assert one.metadata["classes"][0]["name"] in {label.name for label in LABELS}
        several = client.segment([picture, b"no image"], size=64)
        assert several[0]["road.mask"].shape == (50, 90)
        assert isinstance(several[1], ServiceError)
        assert (several[0]["road.mask"] == one["mask"]).all()
        classes = client.classify(picture, top_k=3, size=64)
        assert len(classes.metadata["classes"]) == 3

    async def ask() -> Any:
        async with AsyncClient(heads_service.url) as client:
            masks = await asyncio.gather(*(client.segment(picture, head="road", size=64) for _ in range(5)))
            return masks, await client.classify([picture], size=64)

    masks, classified = asyncio.run(ask())
    assert all((mask["mask"] == one["mask"]).mean() > 0.999 for mask in masks)
    np.testing.assert_allclose(classified[0]["probabilities"], classes["probabilities"], atol=1e-5)
