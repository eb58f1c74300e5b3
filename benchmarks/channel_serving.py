"""Compare the service of a model for 13 channels of 16 bits with that of RGB: CPU time of a request, and of its parts.

Both are ViT-S/16 with random weights in PyTorch. Bodies are a TIFF (deflate) and a PNG of the same size. CPU time
hardly depends on what else the machine does.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/channel_serving.py [--requests 30] [--side 264] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.channel_models import bands, channel_spec, tiff  # noqa: E402
from helpers.image_samples import encoded  # noqa: E402
from helpers.running_service import serve_in_thread  # noqa: E402

import gtsa_kit  # noqa: E402
from gtsa_kit.models.architecture import ARCHITECTURES  # noqa: E402
from gtsa_kit.models.encoder_spec import EncoderSpec  # noqa: E402
from gtsa_kit.models.weights import save_encoder  # noqa: E402
from gtsa_kit.service import Client  # noqa: E402
from gtsa_kit.service.decoding import decode_upload  # noqa: E402
from gtsa_kit.service.request_parsing import UploadedImage  # noqa: E402
from gtsa_kit.service.settings import ServiceSettings  # noqa: E402

CHANNELS = 13


def main() -> None:
    """Measure both models in turn and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--side", type=int, default=264)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    architecture = ARCHITECTURES["vit_small"]
    spec = channel_spec(CHANNELS, size=224)
    specs = {
        "rgb": EncoderSpec(architecture, replace(EncoderSpec.named("vit_small").preprocessing, size=224)),
        "channels": EncoderSpec(architecture.with_channels(CHANNELS), spec.preprocessing),
    }
    values = bands(0, CHANNELS, height=options.side, width=options.side)
    scene = (values[..., :3] // 2).astype(np.uint8)
    requests = {"rgb": encoded(scene, "PNG"), "channels": tiff(values, compression="zlib")}
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, one in specs.items():
            path = save_encoder(_made(Path(folder, name)), one.build().vit.state_dict(), one, {})
            result[name] = measure(path, requests[name], options.requests)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(artifact: Path, body: bytes, count: int) -> dict[str, float]:
    """Return milliseconds of CPU time: of a request, of decoding its body, and of decoding with the preprocessing."""
    runner = gtsa_kit.load(artifact, "cpu")
    upload, preprocessing = UploadedImage("image", body), runner.preprocessing
    times = {
        "decode_ms": _cpu(lambda: decode_upload(upload, preprocessing, 10**8), count),
        "decode_and_prepare_ms": _cpu(
            lambda: preprocessing.normalized(
                preprocessing.resized_samples(decode_upload(upload, preprocessing, 10**8)[0], (224, 224))
            ),
            count,
        ),
    }
    with serve_in_thread(runner, ServiceSettings(artifact)) as running, Client(running.url) as client:
        client.features(body, ["embedding"])
        times["request_ms"] = _cpu(lambda: client.features(body, ["embedding"]), count)
    return {name: round(value, 2) for name, value in times.items()} | {"body_kb": round(len(body) / 1000)}


def _cpu(work: Callable[[], object], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        work()
    return 1000 * (time.process_time() - started) / count


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
