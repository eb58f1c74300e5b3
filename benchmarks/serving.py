"""The service against the offline path and LitServe: rate when saturated, latency at half load, what it adds when idle.

Run: .venv/bin/python benchmarks/serving.py ARTIFACT --images FOLDER [--rounds 3] [--count 192] [--seconds 20]
     [--json FILE]

All on loopback and in turns: each has the cores to itself when it is its turn. The load comes from a process of its
own, over plain sockets; it takes from the cores that it measures, which the offline path has for itself. LitServe is
measured where it is installed (pip install litserve): same decoding, batches and answers.
"""

import argparse
import asyncio
import base64
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_files import bounded_map, find_images
from gtsa_kit.embedding.preprocess import takes_bytes, to_input
from gtsa_kit.export import Runner, load

BATCH = 32
CONCURRENCY = 64
QUERY = "/v1/features?format=safetensors&dtype=float16"
console = Console(stderr=True, highlight=False)
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def prepare(runner: Runner, content: bytes) -> np.ndarray:
    pixels, _ = decode(content)
    image = runner.preprocessing.resized(Image.fromarray(pixels))
    return to_input(image, runner.preprocessing, takes_bytes(runner))


def offline_rate(runner: Runner, files: list[bytes]) -> float:
    """Images a second: decoding in threads, a bounded number ahead of the model; maps as float16."""
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        ready = bounded_map(pool, lambda content: prepare(runner, content), files, 2 * BATCH)
        batch = []
        for image in ready:
            batch.append(image)
            if len(batch) == BATCH:
                features = runner(np.stack(batch))
                features.feature_map.astype(np.float16)
                batch = []
    if batch:
        runner(np.stack(batch)).feature_map.astype(np.float16)
    return len(files) / (time.monotonic() - started)


def as_requests(files: list[bytes], path: str) -> list[bytes]:
    from helpers.raw_http import request

    return [request(path, content, Content_Type="image/jpeg") for content in files]


def as_json_requests(files: list[bytes], path: str) -> list[bytes]:
    """LitServe hands on JSON and forms, no raw bodies."""
    from helpers.raw_http import request

    bodies = [json.dumps({"image": base64.b64encode(content).decode()}).encode() for content in files]
    return [request(path, body, Content_Type="application/json") for body in bodies]


def saturate(port: int, requests: list[bytes], concurrency: int) -> float:
    """Images a second; as many at a time as fill two batches."""
    from helpers.raw_http import send_requests

    started = time.monotonic()
    answers = asyncio.run(send_requests(port, requests, concurrency))
    assert {status for status, _, _ in answers} == {200}, answers[0][2][:300]
    return len(requests) / (time.monotonic() - started)


def at_rate(port: int, requests: list[bytes], rate: float, seconds: float, poisson: bool) -> list[float]:
    """Latencies of an open loop: requests leave when it is time, whatever became of those before."""
    rng = np.random.default_rng(0)
    count = int(rate * seconds)
    gaps = rng.exponential(1 / rate, count) if poisson else np.full(count, 1 / rate)
    return asyncio.run(_at_times(port, requests, np.cumsum(gaps)))


async def _at_times(port: int, requests: list[bytes], times: np.ndarray) -> list[float]:
    from helpers.raw_http import send_request

    free: list[Any] = []
    begun_at = time.monotonic()

    async def one(i: int) -> float:
        due = begun_at + times[i]
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        used, reader, writer = free.pop() if free else (time.monotonic(), None, None)
        if writer is None or time.monotonic() - used > 2:  # the service closes idle connections after 5 s
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _, _ = await send_request(reader, writer, requests[i % len(requests)])
        assert status == 200
        free.append((time.monotonic(), reader, writer))
        return time.monotonic() - due

    return list(await asyncio.gather(*(one(i) for i in range(len(times)))))


def idle(port: int, requests: list[bytes], runner: Runner, files: list[bytes]) -> tuple[list[float], list[float]]:
    """Seconds of single requests, and of decoding and the model alone on the same image, in turns.

    Over a blocking socket: a client's own loop would be measured with the service.
    """
    over, alone = [], []
    room = memoryview(bytearray(8 << 20))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent, content in zip(requests, files, strict=True):
            started = time.monotonic()
            send_over_socket(connection, sent, room)
            over.append(time.monotonic() - started)
            started = time.monotonic()
            runner(prepare(runner, content)[None])
            alone.append(time.monotonic() - started)
    return over, alone


def send_over_socket(connection: socket.socket, content: bytes, room: memoryview) -> None:
    """One request; its answer, whose head comes in one piece, is read into `room`."""
    connection.sendall(content)
    have = connection.recv_into(room)
    head = bytes(room[:have]).partition(b"\r\n\r\n")[0]
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    assert length is not None, head
    assert head.startswith(b"HTTP/1.1 200 "), head
    rest = len(head) + 4 + int(length[1]) - have
    if rest:
        connection.recv_into(room[have:], rest, socket.MSG_WAITALL)


def start(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A server in a process of its own, when it answers."""
    import httpx

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = next((line for line in process.stdout if re.search(r":[0-9]{4,5}", line)), "")
    found = re.search(r":([0-9]{4,5})", line)
    assert found, "the server did not start"
    port = int(found[1])
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                return process, port
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"no answer from {' '.join(command)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    paths = find_images(chosen.images).paths
    files = [paths[i % len(paths)].read_bytes() for i in range(chosen.count)]
    result = measure(chosen.artifact, files, chosen.rounds, chosen.seconds)
    console.print(table(result))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(artifact: Path, files: list[bytes], rounds: int, seconds: float) -> dict[str, Any]:
    """All figures; servers are stopped at the end."""
    runner = load(artifact)
    ours, port = start([sys.executable, "-m", "gtsa_kit", "serve", str(artifact), "--port", "0"])
    lit, lit_port = (None, 0)
    if find_spec("litserve"):
        lit, lit_port = start([sys.executable, str(Path(__file__).with_name("litserved.py")), str(artifact), "8765"])
    else:
        console.print("LitServe is left out: pip install litserve")
    rates: dict[str, list[float]] = {"offline": [], "gtsa serve": [], "LitServe": []}
    requests, lit_requests = as_requests(files, QUERY), as_json_requests(files, "/predict")
    spawned = get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawned) as load_process:
            send = lambda *args: load_process.submit(*args).result()  # noqa: E731
            offline_rate(runner, files[:BATCH])
            send(saturate, port, requests[:CONCURRENCY], CONCURRENCY)
            for _ in range(rounds):
                rates["offline"].append(offline_rate(runner, files))
                rates["gtsa serve"].append(send(saturate, port, requests, CONCURRENCY))
                if lit:
                    rates["LitServe"].append(send(saturate, lit_port, lit_requests, CONCURRENCY))
            over, alone = idle(port, requests[:60], runner, files[:60])
            half = statistics.median(rates["gtsa serve"]) / 2
            even = send(at_rate, port, requests, half, seconds, False)
            poisson = send(at_rate, port, requests, half, seconds, True)
    finally:
        for process in filter(None, (ours, lit)):
            process.terminate()
            process.wait(60)
    single = statistics.median(over)
    ratios = [a / b for a, b in zip(rates["gtsa serve"], rates["offline"], strict=True)]
    return {
        "artifact": artifact.name,
        "provider": runner.provider,
        "rates": {name: found for name, found in rates.items() if found},
        "serve_over_offline": statistics.median(ratios),
        "single_ms": 1000 * single,
        "idle_adds_ms": 1000 * statistics.median(a - b for a, b in zip(over, alone, strict=True)),
        "half_load_rate": half,
        "p50_even_ms": 1000 * float(np.quantile(even, 0.5)),
        "p99_even_ms": 1000 * float(np.quantile(even, 0.99)),
        "p99_poisson_ms": 1000 * float(np.quantile(poisson, 0.99)),
        "p99_even_over_single": float(np.quantile(even, 0.99)) / single,
        "p99_poisson_over_single": float(np.quantile(poisson, 0.99)) / single,
    }


def table(result: dict[str, Any]) -> Table:
    shown = Table(title=f"{result['artifact']}, {result['provider']}", show_header=False)
    for name, found in result["rates"].items():
        each = ", ".join(f"{rate:.1f}" for rate in found)
        shown.add_row(f"{name}, images a second", f"{statistics.median(found):.1f}  ({each})")
    for name, value in result.items():
        if isinstance(value, float):
            shown.add_row(name.replace("_", " "), f"{value:.2f}")
    return shown


if __name__ == "__main__":
    main()
