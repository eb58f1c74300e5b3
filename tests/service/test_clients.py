"""Clients of the service: this project's and OpenAI's."""

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService, ServiceFactory, SlowRunner
from PIL import Image

from gtsa_kit.export import Runner
from gtsa_kit.service import AsyncClient, Client, ServiceError


def embedding(runner: Runner, image: np.ndarray) -> np.ndarray:
    return np.asarray(runner(runner.prepare(Image.fromarray(image))[None]).embedding[0])


def test_openais_client_gets_equal_vectors_as_floats_and_as_base64(service: RunningService, runner: Runner) -> None:
    images = [scene(20 + 5 * i, 30) for i in range(3)]
    uris = [f"data:image/png;base64,{base64.b64encode(encoded(p, 'PNG')).decode()}" for p in images]
    plain = [uri.partition(",")[2] for uri in uris]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        default = client.embeddings.create(model="any", input=uris)  # the client requests base64 by default
        floats = client.embeddings.create(model="any", input=plain, encoding_format="float")
        single = client.embeddings.create(model="any", input=uris[1])
        as_base64 = client.embeddings.create(model="any", input=uris, encoding_format="base64")
    expected = np.stack([embedding(runner, image) for image in images])
    for response in (default, floats):
        assert [entry.index for entry in response.data] == [0, 1, 2]
        np.testing.assert_allclose([entry.embedding for entry in response.data], expected, atol=2e-4)
    np.testing.assert_allclose(single.data[0].embedding, expected[1], atol=2e-4)
    decoded = [np.frombuffer(base64.b64decode(str(entry.embedding)), "<f4") for entry in as_base64.data]
    np.testing.assert_allclose(decoded, expected, atol=2e-4)
    assert default.model.startswith("vit_test-")
    assert default.usage.prompt_tokens == 3 * 14 * 14


def test_openais_client_reports_the_invalid_image_and_a_wrong_token(start_service: ServiceFactory) -> None:
    good = base64.b64encode(encoded(scene(), "PNG")).decode()
    with start_service(token="s3cret") as service:
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key="s3cret", max_retries=0) as client:
            with pytest.raises(openai.UnprocessableEntityError, match=r"input\[1\]: not an image") as caught:
                client.embeddings.create(model="any", input=[good, "aGVsbG8="])
            assert caught.value.param == "input[1]"
            with pytest.raises(openai.UnprocessableEntityError, match="64"):
                client.embeddings.create(model="any", input=good, dimensions=32)
        with (
            openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.embeddings.create(model="any", input=good)


def test_the_client_takes_paths_bytes_arrays_and_pil_images(
    service: RunningService, runner: Runner, tmp_path: Path
) -> None:
    image = scene(40, 60)
    path = tmp_path / "fotografía.png"
    path.write_bytes(encoded(image, "PNG"))
    with Client(service.url) as client:
        assert client.ready()
        assert client.model()["manifest"]["dim"] == 64
        for given in (path, str(path), path.read_bytes(), image, Image.fromarray(image)):
            response = client.features(given, dtype="float32")
            np.testing.assert_allclose(response["embedding"], embedding(runner, image), atol=2e-4)
        regions = client.features(
            path, ["embedding"], size=(48, 64), boxes=[(0, 0, 30, 20.5)], points=[(1, 2), (3.25, 4)], roi_size=2
        )
        assert regions["feature_map.boxes"].shape == (1, 64, 2, 2)
        assert regions["feature_map.points"].shape == (2, 64)
        assert regions["embedding"].dtype == np.float16
        assert np.allclose(regions.grid_to_pixel @ [4, 3, 1], [60, 40])
        several = client.features([path, b"rubbish", image], size=32)
        assert isinstance(several[1], ServiceError)
        assert (several[1].status, several[1].code) == (422, "undecodable_image")
        np.testing.assert_array_equal(several[0]["feature_map"], several[2]["feature_map"])
        comparison = client.similarity(path, image, point=(37.5, 20), size=(48, 64))
        assert comparison["similarity"].shape == (3, 4)
        assert comparison["similarity"][1, 2] > 0.9999  # the point is the center of that patch
        assert (comparison.metadata["best"]["x"], comparison.metadata["best"]["y"]) == pytest.approx((37.5, 20))
        with pytest.raises(ServiceError, match="size") as caught:
            client.features(path, size=33)
        assert (caught.value.status, caught.value.field) == (422, "size")
    with Client("http://127.0.0.1:9") as unreachable:
        assert not unreachable.ready()


def test_the_async_client_shares_batches_and_retries_after_the_delay(
    start_service: ServiceFactory, runner: Runner
) -> None:
    slow = SlowRunner(runner, 0.1)
    images = [scene(20 + i, 30) for i in range(6)]

    async def compute() -> list[np.ndarray]:
        async with AsyncClient(url, retries=8) as client:
            responses = await asyncio.gather(*(client.features(p, ["embedding"], dtype="float32") for p in images))
            assert (await client.model())["limits"]["max_pending"] == 4
            both = await client.similarity(images[0], images[0], box=(0, 0, 30, 20))
            assert both["similarity"].shape == (14, 14)
            with pytest.raises(ServiceError):
                await client.features(b"rubbish")
        return [response["embedding"] for response in responses]

    with start_service(with_runner=slow, max_pending=4) as service:
        url = service.url
        vectors = asyncio.run(compute())
    np.testing.assert_allclose(vectors, [embedding(runner, p) for p in images], atol=2e-4)
    assert max(batch[0] for batch in slow.batches) > 1


def test_the_client_needs_no_torch() -> None:
    code = (
        "import sys; from gtsa_kit.service import Client, AsyncClient; Client(); "
        "sys.exit(any(name.split('.')[0] in ('torch', 'fastapi', 'timm', 'uvicorn') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_examples_in_the_documentation_run(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the Python blocks of docs/serving.md that use a service, in this process, which has their libraries."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    ran = 0
    for block in blocks:
        if "ray" in block:
            continue
        for i in range(2):
            Image.fromarray(scene(48 + i, 64)).save(tmp_path / f"{i}.jpg")
        code = block.replace('Client("http://127.0.0.1:8000")', f'Client("{service.url}")').replace(
            "http://127.0.0.1:8000/v1", f"{service.url}/v1"
        )
        exec(compile(code, "docs/serving.md", "exec"), {"__name__": "__main__"})
        ran += 1
    assert ran >= 3
