"""Service of models for other channels than 8-bit RGB, and TIFF and arrays for those of RGB."""

import asyncio
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.channel_models import BANDS, bands, channel_spec, dicom, npy, save_channel_encoder, tiff, valid_files
from helpers.image_samples import encoded, png_by_hand, scene
from helpers.mutants import mutated
from helpers.raw_http import LEAKS, request, send_requests
from helpers.running_service import RunningService, ServiceFactory
from helpers.task_models import task_spec
from PIL import Image

import gtsa_kit
from gtsa_kit.export import Runner
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.channel_images import read_samples
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model
from gtsa_kit.service import Client, ServiceError
from gtsa_kit.service.readiness import describe_ready
from gtsa_kit.service.settings import ServiceSettings
from gtsa_kit.tasks.heads import open_head
from gtsa_kit.tasks.predictor import open_predictor

pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
NODATA = (42113, "s", 0, "0", True)
TURNED = (274, "H", 1, 6, True)


def holes() -> np.ndarray:
    values = bands(3)
    values[:9, 20:] = 0
    return values


FILES = {
    "interleaved.tif": tiff(bands(0), compression="zlib", predictor=True),
    "planes.tif": tiff(np.moveaxis(bands(1), -1, 0), planarconfig="separate", tile=(16, 16), compression="lzw"),
    "nodata.tif": tiff(holes(), extratags=[NODATA]),
    "turned.tif": tiff(bands(2), extratags=[TURNED]),
    "last.npy": npy(bands(4)),
    "first.npy": npy(np.moveaxis(bands(5), -1, 0)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_channel_encoder(tmp_path_factory.mktemp("bands"))


@pytest.fixture(scope="module")
def bands_runner(model: Path) -> Runner:
    return gtsa_kit.load(model, "cpu")


@pytest.fixture(scope="module")
def bands_service(start_service: ServiceFactory, bands_runner: Runner) -> Iterator[RunningService]:
    with start_service(bands_runner) as running:
        yield running
        assert running.drains()


def embedded(folder: Path, runner: Runner, files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Return the vectors of files that gtsa_kit.embed reads from a folder."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {row.path: row.features.embedding for row in gtsa_kit.embed(folder, runner)}


def test_vectors_are_those_of_embedded_files(
    bands_service: RunningService, bands_runner: Runner, tmp_path: Path
) -> None:
    expected = embedded(tmp_path / "files", bands_runner, FILES)
    assert expected.keys() == FILES.keys()
    with Client(bands_service.url) as client, bands_service.client() as plain:
        several = client.features([tmp_path / "files" / name for name in FILES], ["embedding"], dtype="float32")
        for (name, content), one in zip(FILES.items(), several, strict=True):
            np.testing.assert_allclose(one["embedding"], expected[name], atol=2e-5)
            media = "image/tiff" if name.endswith("tif") else "application/x-npy"
            response = plain.post(
                "/v1/features?format=json&dtype=float32", content=content, headers={"Content-Type": media}
            )
            np.testing.assert_allclose(response.json()["embedding"], expected[name], atol=2e-5)
        response = client.features(bands(4), ["embedding"], dtype="float32")
        np.testing.assert_allclose(response["embedding"], expected["last.npy"], atol=2e-5)
    differences = np.ptp(list(expected.values()), axis=0)
    assert differences.max() > 1e-2, "the files must differ for the model"


@pytest.mark.parametrize(
    ("count", "dtype", "files"),
    [
        (1, "uint16", {"a.png": png_by_hand(bands(0, 1)[..., 0]), "b.tif": tiff(bands(1, 1)[..., 0])}),
        (3, "uint16", {"a.png": png_by_hand(bands(0, 3)), "b.npy": npy(bands(1, 3))}),
        (1, "float32", {"a.dcm": dicom(bands(0, 1)[..., 0], RescaleSlope="1.5", PixelPaddingValue=30)}),
        (
            2,
            "uint8",
            {"a.npy": npy(bands(0, 2, "uint8")), "b.png": encoded(Image.fromarray(scene()).convert("LA"), "PNG")},
        ),
    ],
)
def test_other_depths_are_served_too(
    count: int, dtype: str, files: dict[str, bytes], start_service: ServiceFactory, tmp_path: Path
) -> None:
    if "a.dcm" in files:
        pytest.importorskip("pydicom", reason="pydicom is not installed")
    runner = gtsa_kit.load(save_channel_encoder(tmp_path / "model", count, dtype), "cpu")
    expected = embedded(tmp_path / "files", runner, files)
    kinds = {".png": "image/png", ".tif": "image/tiff", ".npy": "application/x-npy", ".dcm": "application/dicom"}
    with start_service(runner) as running, running.client() as client:
        taken = client.get("/v1/model").json()["input"]
        assert (taken["channels"], taken["dtype"]) == (count, dtype)
        for name, content in files.items():
            media = kinds[Path(name).suffix]
            assert media in taken["content_types"]
            path = "/v1/features?format=json&dtype=float32"
            response = client.post(path, content=content, headers={"Content-Type": media})
            np.testing.assert_allclose(response.json()["embedding"], expected[name], atol=2e-5)


@pytest.mark.parametrize("input_type", ["uint16", "float32-samples"])
def test_graphs_that_normalize_samples_are_served(
    input_type: str, start_service: ServiceFactory, model: Path, bands_runner: Runner
) -> None:
    source, options = open_source(model), ExportOptions(input=input_type)
    manifest = build_manifest(source.encoder, "pytorch", options, {}, source.sha256)
    graph = TorchRunner(ExportGraph(source.encoder, options), manifest, torch.device("cpu"))
    with start_service(graph) as running, Client(running.url) as client:
        for name in ("interleaved.tif", "nodata.tif", "last.npy"):
            served = client.features(FILES[name], ["embedding"], size=(48, 64), dtype="float32")["embedding"]
            image, _ = read_samples(FILES[name], name, bands_runner.preprocessing)
            expected = bands_runner(bands_runner.prepare(image, (48, 64))[None]).embedding[0]
            np.testing.assert_allclose(served, expected, atol=2e-4)


def test_points_are_in_pixels_of_the_stored_image(bands_service: RunningService) -> None:
    """A file that is stored on its side has the features of the upright one, at the positions where they are stored."""
    upright = bands(6, height=48, width=64)
    stored = tiff(np.rot90(upright), extratags=[TURNED])
    with Client(bands_service.url) as client:
        a = client.features(tiff(upright), size=64, points=[(10.5, 40.5)], dtype="float32")
        b = client.features(stored, size=64, points=[(40.5, 64 - 10.5)], dtype="float32")
    assert (b.metadata["width"], b.metadata["height"], b.metadata["orientation"]) == (48, 64, 6)
    np.testing.assert_allclose(a["feature_map.points"], b["feature_map.points"], atol=1e-4)


def post(service: RunningService, content: bytes, media: str = "application/octet-stream") -> tuple[int, str]:
    with service.client() as client:
        response = client.post("/v1/features?outputs=embedding", content=content, headers={"Content-Type": media})
        assert not LEAKS.search(response.content) or response.status_code == 200
        return response.status_code, "" if response.status_code == 200 else response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(bands(0, 4)), "4 channels of uint16, where the model takes 5 channels of uint16"),
        (npy(bands(0).astype(np.float32)), "5 channels of float32, where the model takes 5 channels of uint16"),
        (encoded(scene(), "JPEG"), "3 channels of uint8, where the model takes 5 channels of uint16"),
        (npy(np.array([{}], object)), "samples of type object"),
        (npy(np.zeros((2, 2, 2, 2), np.uint16)), r"an array (2, 2, 2, 2) is no image"),
        (tiff(np.full((8, 8, 5), 7, np.uint16), extratags=[(42113, "s", 0, "7", True)]), "no pixel holds data"),
        (tiff(bands(0))[:-999], "damaged, or of an unknown file format"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "damaged, or of an unknown file format"),
        (b"", "empty file"),
    ],
)
def test_what_the_model_does_not_take_is_refused_with_what_it_takes(
    bands_service: RunningService, content: bytes, message: str
) -> None:
    status, text = post(bands_service, content)
    assert status == 422
    assert message in text


def npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<u2", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_headers_above_the_limits_are_refused_before_pixels_are_decoded(
    start_service: ServiceFactory, bands_runner: Runner
) -> None:
    arrays = [npy_header(shape) for shape in ((100_000, 100_000, 5), (2**40, 2**40, 2**40), (5, 2**31, 2))]
    with start_service(bands_runner, max_pixels=1_000_000) as running:
        for content in (*arrays, tiff(np.zeros((1500, 1500, 5), np.uint16), compression="zlib")):
            status, text = post(running, content)
            assert status == 422
            assert "above the limit of" in text
        assert running.drains()


def test_rgb_models_take_tiff_and_arrays(service: RunningService, runner: Runner, tmp_path: Path) -> None:
    image = scene(30, 40)
    with Client(service.url) as client:
        expected = client.features(image, ["embedding"])["embedding"]
        for content in (npy(image), npy(np.moveaxis(image, -1, 0)), tiff(image, photometric="rgb")):
            np.testing.assert_array_equal(client.features(content, ["embedding"])["embedding"], expected)
        np.save(tmp_path / "rgb.npy", image)
        (row,) = gtsa_kit.embed(tmp_path / "rgb.npy", runner)
        np.testing.assert_allclose(row.features.embedding, expected, atol=2e-3)  # of float16
        gray = image[..., 0]
        same = [client.features(one, ["embedding"])["embedding"] for one in (npy(gray), np.stack([gray] * 3, -1))]
        np.testing.assert_array_equal(*same)
        for content, actual in (
            (npy(bands(0)), "5 channels of uint16"),
            (tiff(bands(0)), "5 channels of uint16"),
            (tiff(bands(0, 13, "float32")), "13 channels of float32"),
            (dicom(bands(0, 1)[..., 0]), "1 channel of float32"),
        ):
            with pytest.raises(ServiceError, match=f"{actual}, where the model takes 8-bit RGB") as caught:
                client.features(content)
            assert caught.value.status == 422


def test_a_reader_that_is_not_installed_is_415(bands_service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    status, text = post(bands_service, FILES["planes.tif"], "image/tiff")
    assert (status, text) == (415, "this service is installed without the reader of this format")


def test_the_service_says_what_it_takes(bands_service: RunningService, service: RunningService, model: Path) -> None:
    types = ["application/octet-stream", "application/x-npy", "image/tiff"]
    taken = {"channels": BANDS, "dtype": "uint16", "colors": False, "content_types": types}
    with bands_service.client() as client:
        assert client.get("/v1/model").json()["input"] == taken
        assert client.get("/v1/models").json()["data"][0]["input"] == taken
        document = client.get("/openapi.json").json()
        assert "Images: 5 channels of uint16." in client.get("/docs").text
    body = document["paths"]["/v1/features"]["post"]["requestBody"]["content"]
    assert sorted(body) == sorted([*types, "multipart/form-data", "application/json"])
    sock = type("Socket", (), {"getsockname": lambda _: ("127.0.0.1", bands_service.port)})()
    ready = describe_ready(ServiceSettings(model), sock, bands_service.url)
    assert ready is not None
    assert ready["input"] == taken
    with service.client() as client:
        rgb = client.get("/v1/model").json()["input"]
        body = client.get("/openapi.json").json()["paths"]["/v1/features"]["post"]["requestBody"]["content"]
    assert (rgb["channels"], rgb["dtype"], rgb["colors"]) == (3, "uint8", True)
    assert set(rgb["content_types"]) <= set(body)
    assert {"image/jpeg", "image/tiff", "application/x-npy"} <= set(body)
    assert "application/dicom" not in body


def test_mutated_files_get_200_or_422(bands_service: RunningService) -> None:
    count = 240
    valid = [*valid_files(), tiff(bands(8).astype(np.uint8), tile=(16, 16))]
    path = "/v1/features?size=32&outputs=embedding&format=json"
    requests = [request(path, content, Content_Type="image/tiff") for content in mutated(valid, 5, count)]
    responses = asyncio.run(send_requests(bands_service.port, requests, 8))
    statuses = Counter(status for status, _, _ in responses)
    assert set(statuses) == {200, 422}, statuses
    assert min(statuses.values()) > count / 20, "the mutations are too weak or too strong"
    for status, _, body in responses:
        if status != 200:
            assert not LEAKS.search(body), body
            assert json.loads(body)["error"]["code"] == "undecodable_image"
    assert bands_service.drains()


def test_mutated_dicom_files_get_200_or_422(start_service: ServiceFactory, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    runner = gtsa_kit.load(save_channel_encoder(tmp_path, 1, "float32"), "cpu")
    values = bands(0, 1)[..., 0]
    valid = [dicom(values), dicom(np.stack([values, values]), RescaleSlope="2", PixelPaddingValue=7)]
    path = "/v1/features?size=32&outputs=embedding&format=json"
    requests = [request(path, content, Content_Type="application/dicom") for content in mutated(valid, 6, 120)]
    with start_service(runner) as running:
        responses = asyncio.run(send_requests(running.port, requests, 8))
        assert running.drains()
    statuses = Counter(status for status, _, _ in responses)
    assert set(statuses) == {200, 422}, statuses
    assert not [body for status, _, body in responses if status != 200 and LEAKS.search(body)]


def save_task(folder: Path, kind: str, noise: float = 0.1) -> Path:
    """Save a task model on an encoder for bands, with random weights; noise makes predictions different and sure."""
    torch.manual_seed(1)
    spec = task_spec(kind)
    model = TaskModel(channel_spec().build(), spec).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += torch.randn_like(value) * noise
    folder.mkdir()
    save_task_model(folder, model, {"steps": 0})
    return folder


def test_masks_and_classes_of_other_channels(start_service: ServiceFactory, tmp_path: Path) -> None:
    """At the size of the input, the mask is the class of the largest logit of the torch model."""
    values = bands(1, height=64, width=64)
    stated = channel_spec().preprocessing
    normalized = torch.from_numpy(((values - np.array(stated.mean)) / np.array(stated.std)).astype(np.float32))
    for kind, arguments in (("linear", {}), ("classify", {"top_k": 2})):
        folder = save_task(tmp_path / kind, kind)
        with torch.inference_mode():
            logits = load_task_model(folder)(normalized.permute(2, 0, 1)[None])[0]
        with start_service(open_predictor(folder, LoadOptions("cpu"))) as running, Client(running.url) as client:
            assert client.model()["input"]["channels"] == BANDS
            if kind == "linear":
                mask = client.segment(tiff(values), size=64)["mask"]
                assert len(np.unique(mask)) > 1
                assert (mask == logits.argmax(0).numpy()).mean() > 0.999
            else:
                probabilities = client.classify(npy(values), size=64, **arguments)["probabilities"]
                np.testing.assert_allclose(probabilities, logits.softmax(0), atol=1e-4)
            with pytest.raises(ServiceError, match="4 channels of uint16, where the model takes 5 channels of uint16"):
                (client.segment if kind == "linear" else client.classify)(npy(bands(0, 4)))


def test_detections_are_drawn_on_the_chosen_channels(start_service: ServiceFactory, tmp_path: Path) -> None:
    predictor = open_predictor(save_task(tmp_path / "run", "faster-rcnn", noise=0), LoadOptions("cpu"))
    values = bands(1, height=64, width=80)
    with start_service(predictor, show="4,3,2") as running, running.client() as client:
        path, headers = "/v1/detect?size=64x80&threshold=1", {"Content-Type": "image/tiff"}
        assert client.post(path, content=tiff(values), headers=headers).json()["detections"] == []
        response = client.post(f"{path}&format=png", content=tiff(values), headers=headers)
        drawn = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB"), float)
    stated = channel_spec().preprocessing
    mean, std = (np.array(part)[[3, 2, 1]] for part in (stated.mean, stated.std))
    expected = 255 * np.clip((values[..., [3, 2, 1]] - mean) / (4 * std) + 0.5, 0, 1)
    np.testing.assert_allclose(drawn, expected, atol=1)


def test_heads_of_an_encoder_for_other_channels(
    start_service: ServiceFactory, model: Path, bands_runner: Runner, tmp_path: Path
) -> None:
    weights = open_source(model).encoder.vit.state_dict()
    task = TaskModel(channel_spec().build(), task_spec("linear")).eval()
    task.encoder.vit.load_state_dict(weights)
    (tmp_path / "road").mkdir()
    save_task_model(tmp_path / "road", task, {"steps": 0})
    head = open_head("road", tmp_path / "road", "cpu")
    values = bands(1, height=64, width=64)
    with start_service(bands_runner, heads=[head]) as running, Client(running.url) as client:
        mask = client.segment(npy(values), head="road", size=64)["mask"]
        assert client.features(npy(values), ["embedding"])["embedding"].shape == (64,)
    with torch.inference_mode():
        logits = task(torch.from_numpy(bands_runner.prepare(values, (64, 64)))[None])[0]
    assert (mask == logits.argmax(0).numpy()).mean() > 0.999
