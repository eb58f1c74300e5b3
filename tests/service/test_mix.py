"""Concurrent requests of mixed sizes and formats each get the features of their own image."""

import asyncio
import io

import numpy as np
from helpers.image_samples import encoded
from helpers.raw_http import request, send_requests
from helpers.running_service import ServiceFactory, SlowRunner
from PIL import Image

from gtsa_kit.export import Runner
from gtsa_kit.export.tolerances import TOLERANCES
from gtsa_kit.service.client_protocol import parse_response

REQUESTS = 2000
CONCURRENCY = 48
SIZES = ((32, 32), (48, 48), (32, 64), (64, 32), (16, 80))
CONTENT_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
OUTPUTS = ("embedding", "feature_map", "feature_map_0", "feature_map_1")


def image_files(count: int) -> list[tuple[str, bytes]]:
    """Return content types and image files, no two images equal."""
    rng = np.random.default_rng(5)
    files = []
    for i in range(count):
        file_format = list(CONTENT_TYPES)[i % len(CONTENT_TYPES)]
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        image = coarse.resize((20 + i % 13, 16 + i % 11), Image.Resampling.BICUBIC)
        files.append((CONTENT_TYPES[file_format], encoded(image, file_format)))
    return files


def offline(runner: Runner, content: bytes, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Compute the features of one image with the runner."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    features = runner(runner.prepare(image, size)[None])
    layers = {f"feature_map_{i}": values[0] for i, values in features.layers.items()}
    return {"embedding": features.embedding[0], "feature_map": features.feature_map[0], **layers}


def build_request(file: tuple[str, bytes], size: tuple[int, int], outputs: tuple[str, ...]) -> bytes:
    query = f"size={size[0]}x{size[1]}&outputs={','.join(outputs)}&format=safetensors&dtype=float32"
    return request(f"/v1/features?{query}", file[1], Content_Type=file[0])


def test_concurrent_mixed_requests_get_the_features_of_their_own_image(
    start_service: ServiceFactory, runner: Runner
) -> None:
    rng = np.random.default_rng(6)
    files = image_files(60)
    selected = []
    for _ in range(REQUESTS):
        outputs = tuple(np.array(OUTPUTS)[np.sort(rng.choice(4, rng.integers(1, 5), replace=False))].tolist())
        selected.append((int(rng.integers(len(files))), int(rng.integers(len(SIZES))), outputs))
    expected = {(f, s): offline(runner, files[f][1], SIZES[s]) for f in range(len(files)) for s in range(len(SIZES))}
    # The images must differ by far more than the tolerance.
    tolerance = TOLERANCES["fp32"].max_abs
    embeddings = np.stack([expected[f, 0]["embedding"] for f in range(len(files))])
    distances = np.abs(embeddings[:, None] - embeddings[None]).max(-1) + 9 * np.eye(len(files))
    assert distances.min() > 20 * tolerance

    slow = SlowRunner(runner, 0.01)  # as slow as a larger model, so that requests queue up
    with start_service(with_runner=slow) as service:
        requests = [build_request(files[f], SIZES[s], outputs) for f, s, outputs in selected]
        responses = asyncio.run(send_requests(service.port, requests, CONCURRENCY))
        assert service.drains(), service.limiter

    for (file, size, outputs), (status, _, content) in zip(selected, responses, strict=True):
        assert status == 200, content
        response = parse_response(content)
        assert tuple(sorted(response.arrays)) == tuple(sorted(outputs))
        for name in outputs:
            assert np.abs(response[name] - expected[file, size][name]).max() <= tolerance
    assert len(slow.batches) < REQUESTS / 3, "concurrent requests were not batched"
    assert max(batch[0] for batch in slow.batches) <= 32
