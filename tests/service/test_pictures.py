"""Pictures that the service draws for browsers: POST /v1/picture and the samples of the page."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.channel_models import BANDS, bands, npy, save_channel_encoder, tiff
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService, ServiceFactory
from PIL import Image

import gtsa_kit
from gtsa_kit.export import Runner
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.service.samples import load_samples

pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
OCTET_STREAM = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def bands_runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return gtsa_kit.load(save_channel_encoder(tmp_path_factory.mktemp("bands")), "cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    (folder / "a.tif").write_bytes(tiff(bands(0)))
    (folder / "b.npy").write_bytes(npy(bands(1)))
    (folder / "c.npy").write_bytes(npy(bands(1, 4)))
    return folder


@pytest.fixture(scope="module")
def drawing(start_service: ServiceFactory, bands_runner: Runner, samples: Path) -> Iterator[RunningService]:
    with start_service(bands_runner, samples=samples, show="5,1,2") as running:
        yield running
        assert running.drains()


def by_hand(values: np.ndarray, preprocessing: Preprocessing, numbers: list[int]) -> np.ndarray:
    """Return (H, W, 3): each channel from black at two deviations below its mean to white at two above."""
    chosen = [number - 1 for number in numbers]
    low = np.array(preprocessing.mean)[chosen] - 2 * np.array(preprocessing.std)[chosen]
    unit = (values[..., chosen] - low) / (4 * np.array(preprocessing.std)[chosen])
    return np.round(255 * np.clip(unit, 0, 1))


def picture(service: RunningService, content: bytes, query: str = "") -> np.ndarray:
    with service.client() as client:
        response = client.post(f"/v1/picture{query}", content=content, headers=OCTET_STREAM)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB"), float)


def test_the_chosen_channels_are_shown(drawing: RunningService, bands_runner: Runner) -> None:
    values, preprocessing = bands(2), bands_runner.preprocessing
    for query, numbers in (("", [5, 1, 2]), ("?show=4,3,2", [4, 3, 2]), ("?show=3", [3, 3, 3])):
        drawn = picture(drawing, tiff(values), query)
        np.testing.assert_allclose(drawn, by_hand(values, preprocessing, numbers), atol=1)
    upright = picture(drawing, tiff(np.rot90(values), extratags=[(274, "H", 1, 6, True)]), "?show=4,3,2")
    np.testing.assert_allclose(upright, by_hand(values, preprocessing, [4, 3, 2]), atol=1)


def test_the_service_says_which_channels_it_shows(drawing: RunningService, service: RunningService) -> None:
    for running, expected in ((drawing, [5, 1, 2]), (service, [])):
        with running.client() as client:
            assert client.get("/v1/model").json()["display_channels"] == expected


def test_pictures_are_small_and_those_of_rgb_are_the_image(service: RunningService, drawing: RunningService) -> None:
    image = scene(40, 60)
    for content in (encoded(image, "PNG"), tiff(image, photometric="rgb"), npy(image)):
        np.testing.assert_array_equal(picture(service, content), image)
    assert picture(drawing, npy(bands(0, height=300, width=1500))).shape == (205, 1024, 3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("show=6", "names channels 1 to 5, got '6'"),
        ("show=0", ""),
        ("show=1,2", ""),
        ("show=1,2,99999", "names channels 1 to 5"),
        ("show=1&show=2", ""),
        ("shown=1", ""),
    ],
)
def test_other_channels_than_those_of_the_model_are_refused(
    drawing: RunningService, service: RunningService, query: str, message: str
) -> None:
    with drawing.client() as client:
        response = client.post(f"/v1/picture?{query}", content=tiff(bands(0)), headers=OCTET_STREAM)
    assert response.status_code == 422
    assert message in response.json()["error"]["message"]
    assert "--" not in response.text


def test_a_body_that_is_no_image_is_refused(drawing: RunningService, service: RunningService) -> None:
    with drawing.client() as client:
        assert client.post("/v1/picture", json={"images": []}).status_code == 415
        wrong: Any = client.post("/v1/picture", content=tiff(bands(0, 4)), headers=OCTET_STREAM)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "image")
    with service.client() as client:
        rgb = client.post("/v1/picture?show=1,2,3", content=encoded(scene(), "PNG"), headers=OCTET_STREAM)
        assert (rgb.status_code, rgb.json()["error"]["param"]) == (422, "show")


def test_samples_have_a_picture_and_their_file(drawing: RunningService, bands_runner: Runner, samples: Path) -> None:
    with drawing.client() as client:
        assert client.get("/samples").json() == ["a", "b"]
        for index, name in enumerate(["a.tif", "b.npy"]):
            drawn = np.asarray(Image.open(io.BytesIO(client.get(f"/samples/{index}").content)), float)
            expected = by_hand(bands(index), bands_runner.preprocessing, [5, 1, 2])
            assert np.abs(drawn - expected).mean() < 12  # a JPEG
            assert client.get(f"/samples/{index}/file").content == (samples / name).read_bytes()
        for path in ("/samples/2", "/samples/2/file", "/samples/-1/file"):
            assert client.get(path).status_code == 404
        assert client.get("/samples/..%2fa.tif").status_code in (404, 422)
    assert load_samples(samples, bands_runner.preprocessing, max_bytes=100) == ()
    assert load_samples(None, bands_runner.preprocessing) == ()


def test_channels_of_other_models_are_refused_at_the_start(start_service: ServiceFactory, bands_runner: Runner) -> None:
    for runner, show, message in (
        (bands_runner, "1,2", "takes one channel or three, counted from 1, got '1,2'; 4,3,2"),
        (bands_runner, f"{BANDS + 1}", "--show names channels 1 to 5"),
        (None, "1,2,3", "images are 8-bit RGB; omit --show"),
    ):
        with pytest.raises(ValueError, match=message), start_service(runner, show=show):
            pass
