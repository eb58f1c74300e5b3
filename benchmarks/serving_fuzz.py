"""Send mutated image files of every format to the service; check the status codes and the growth of its memory.

With --channels, a model for 5 channels of 16 bits gets mutated TIFF files and arrays.

Run: .venv/bin/python benchmarks/serving_fuzz.py [--count 20000] [--channels] [--artifact FILE] [--seed 1] [--json FILE]
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.channel_models import save_channel_encoder  # noqa: E402
from helpers.channel_models import valid_files as valid_channel_files  # noqa: E402
from helpers.mutants import mutated, valid_files  # noqa: E402
from helpers.raw_http import request, send_requests  # noqa: E402

FILES_PER_ROUND = 1000
CONCURRENCY = 8


def main() -> None:
    """Run the service, send the files, print the result, and exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--channels", action="store_true")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save = save_channel_encoder if options.channels else save_random_weights
        artifact, valid = options.artifact or save(Path(folder)), (valid_files, valid_channel_files)[options.channels]()
        command = [sys.executable, "-m", "gtsa_kit", "serve", str(artifact), "--port", "0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        process.stderr.readline()  # loading
        match = re.search(r"http://127\.0\.0\.1:([0-9]+)", process.stderr.readline())
        assert match, "the service did not start"
        try:
            result = fuzz(int(match[1]), process.pid, mutated(valid, options.seed, options.count), options.count)
        finally:
            process.terminate()
        result["exit"] = process.wait(60)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    passed = set(result["statuses"]) <= {"200", "422"} and result["grown_mb"] < 100 and result["exit"] == 0
    sys.exit(not passed)


def save_random_weights(folder: Path) -> Path:
    """Save a tiny encoder; the tested code runs before the model."""
    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    save_encoder(folder, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    return folder / "encoder.safetensors"


def fuzz(port: int, pid: int, stream: Iterator[bytes], count: int) -> dict[str, object]:
    """Send `count` files in rounds, and compare the memory at the end with that after the first tenth."""
    statuses: Counter[str] = Counter()
    memory, started = [], time.monotonic()
    for done in range(0, count, FILES_PER_ROUND):
        files = [next(stream) for _ in range(min(FILES_PER_ROUND, count - done))]
        path = "/v1/features?size=32&outputs=embedding&format=json"
        requests = [request(path, content, Content_Type="application/octet-stream") for content in files]
        responses = asyncio.run(send_requests(port, requests, CONCURRENCY))
        statuses.update(str(status) for status, _, _ in responses)
        memory.append(resident_mb(pid))
        print(f"{done + len(files)} of {count}, {dict(statuses)}, {memory[-1]:.0f} MB", file=sys.stderr)
    settled = memory[len(memory) // 10]
    seconds = time.monotonic() - started
    return {
        "files": count,
        "seconds": round(seconds, 1),
        "statuses": dict(statuses),
        "settled_mb": settled,
        "last_mb": memory[-1],
        "grown_mb": memory[-1] - settled,
    }


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (Linux)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+([0-9]+)", text)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
