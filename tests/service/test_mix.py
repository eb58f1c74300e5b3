"""Whatever the mix and the load, each answer is that of its own image: against the offline runner."""

import asyncio
import io

import numpy as np
from helpers.image_samples import encoded
from helpers.raw_http import ask_many, request
from helpers.running_service import Serving, Slow
from PIL import Image

from gtsa_kit.export import Runner
from gtsa_kit.export.spec import TOLERANCES
from gtsa_kit.service.client_protocol import read_answer

REQUESTS = 2000
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


def request_of(file: tuple[str, bytes], size: tuple[int, int], outputs: tuple[str, ...]) -> bytes:
    query = f"size={size[0]}x{size[1]}&outputs={','.join(outputs)}&format=safetensors&dtype=float32"
    return request(f"/v1/features?{query}", file[1], Content_Type=file[0])


def test_thousands_of_mixed_requests_at_a_time_each_get_the_features_of_their_own_image(
    serving: Serving, runner: Runner
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

    slow = Slow(runner, 0.01)  # as a larger model would be: then there is something to batch
    with serving(with_runner=slow) as served:
        requests = [request_of(files[f], SIZES[s], outputs) for f, s, outputs in chosen]
        answers = asyncio.run(ask_many(served.port, requests, AT_A_TIME))
        assert served.empties(), served.pending

    for (file, size, outputs), (status, _, content) in zip(chosen, answers, strict=True):
        assert status == 200, content
        answer = read_answer(content)
        assert tuple(sorted(answer.arrays)) == tuple(sorted(outputs))
        for name in outputs:
            assert np.abs(answer[name] - expected[file, size][name]).max() <= allowed
    assert len(slow.batches) < REQUESTS / 3, "concurrent requests were not batched"
    assert max(batch[0] for batch in slow.batches) <= 32
