"""Whatever the mix and the load, each answer is that of its own image: against the offline runner."""

import asyncio
import io
from typing import Any

import httpx
import numpy as np
from conftest import Served
from pictures import encoded
from PIL import Image

from gtsa_kit.export import Runner
from gtsa_kit.export.spec import TOLERANCES
from gtsa_kit.service.wire import read_answer

REQUESTS = 3000
AT_A_TIME = 48
SIZES = ((32, 32), (48, 48), (32, 64), (64, 32), (16, 80))
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp", "TIFF": "image/tiff"}
OUTPUTS = ("embedding", "feature_map", "feature_map_0", "feature_map_1")


def pictures(count: int) -> list[tuple[str, bytes]]:
    """Content type and file, no two alike."""
    rng = np.random.default_rng(5)
    found = []
    for i in range(count):
        kind = list(KINDS)[i % len(KINDS)]
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        picture = coarse.resize((20 + i % 13, 16 + i % 11), Image.Resampling.BICUBIC)
        found.append((KINDS[kind], encoded(picture, kind)))
    return found


def offline(runner: Runner, content: bytes, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """One image at a time, as one would by hand."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    features = runner(runner.prepare(image, size)[None])
    layers = {f"feature_map_{i}": values[0] for i, values in features.layers.items()}
    return {"embedding": features.embedding[0], "feature_map": features.feature_map[0], **layers}


async def ask_all(url: str, files: list[tuple[str, bytes]], chosen: list[tuple[int, int, Any]]) -> list[bytes]:
    """All requests, many at a time."""
    gate = asyncio.Semaphore(AT_A_TIME)
    limits = httpx.Limits(max_connections=AT_A_TIME)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def one(file: int, size: int, outputs: tuple[str, ...]) -> bytes:
            height, width = SIZES[size]
            query = {"size": f"{height}x{width}", "outputs": ",".join(outputs), "format": "safetensors"}
            kind, content = files[file]
            async with gate:
                response = await client.post(
                    "/v1/features",
                    params={**query, "dtype": "float32"},
                    content=content,
                    headers={"Content-Type": kind},
                )
            assert response.status_code == 200, response.text
            return response.content

        return await asyncio.gather(*(one(*choice) for choice in chosen))


def test_thousands_of_mixed_requests_at_a_time_each_get_the_features_of_their_own_image(
    served: Served, runner: Runner
) -> None:
    rng = np.random.default_rng(6)
    files = pictures(60)
    chosen = []
    for _ in range(REQUESTS):
        outputs = tuple(np.array(OUTPUTS)[np.sort(rng.choice(4, rng.integers(1, 5), replace=False))].tolist())
        chosen.append((int(rng.integers(len(files))), int(rng.integers(len(SIZES))), outputs))
    expected = {(f, s): offline(runner, files[f][1], SIZES[s]) for f in range(len(files)) for s in range(len(SIZES))}
    # The oracle itself must tell images apart by far more than is allowed.
    allowed = TOLERANCES["fp32"].max_abs
    embeddings = np.stack([expected[f, 0]["embedding"] for f in range(len(files))])
    apart = np.abs(embeddings[:, None] - embeddings[None]).max(-1) + 9 * np.eye(len(files))
    assert apart.min() > 20 * allowed

    answers = asyncio.run(ask_all(served.url, files, chosen))

    for (file, size, outputs), content in zip(chosen, answers, strict=True):
        answer = read_answer(content)
        assert tuple(sorted(answer.arrays)) == tuple(sorted(outputs))
        for name in outputs:
            assert np.abs(answer[name] - expected[file, size][name]).max() <= allowed
    batches = metric(served, "gtsa_batch_size_count")
    assert batches < REQUESTS / 2, "concurrent requests were not batched"


def metric(served: Served, name: str) -> float:
    with served.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
