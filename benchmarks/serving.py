"""Throughput and latency of the service, compared with the offline path and LitServe.

Run: .venv/bin/python benchmarks/serving.py ARTIFACT --images FOLDER [--rounds 3] [--count 192] [--seconds 20]
     [--json FILE]

It measures the saturated rate, the latency at half of that rate, and the latency that an idle service adds to decoding
and the model. The candidates run on loopback and alternate, so that only one is under load at a time. A separate
process generates the load over plain sockets. It shares the cores with the service; the offline path has all cores.
LitServe is measured where it is installed (pip install litserve), with the same decoding, batches and responses.
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
from gtsa_kit.embedding.preprocess import to_input
from gtsa_kit.export import Runner, load

BATCH = 32
"""Images per batch of the offline path and of LitServe."""
CONCURRENCY = 64
"""Open requests at the saturated rate."""
QUERY = "/v1/features?format=safetensors&dtype=float16"
console = Console(stderr=True, highlight=False)
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def prepare(runner: Runner, content: bytes) -> np.ndarray:
    """Return the model input of an image file, without the batch axis."""
    pixels, _ = decode(content)
    image = runner.preprocessing.resized(Image.fromarray(pixels))
    return to_input(image, runner.preprocessing, runner.manifest.input_format)


def offline_rate(runner: Runner, files: list[bytes]) -> float:
    """Return images per second of the offline path: threads decode ahead of the model, and maps are cast to float16."""
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        prepared = bounded_map(pool, lambda content: prepare(runner, content), files, 2 * BATCH)
        batch = []
        for image in prepared:
            batch.append(image)
            if len(batch) == BATCH:
                features = runner(np.stack(batch))
                features.feature_map.astype(np.float16)
                batch = []
    if batch:
        runner(np.stack(batch)).feature_map.astype(np.float16)
    return len(files) / (time.monotonic() - started)


def build_requests(files: list[bytes], path: str) -> list[bytes]:
    """Return one HTTP request for each image file, which is the body."""
    from helpers.raw_http import request

    return [request(path, content, Content_Type="image/jpeg") for content in files]


def build_json_requests(files: list[bytes], path: str) -> list[bytes]:
    """Return requests with the image as base64 in JSON, since LitServe does not support raw bodies."""
    from helpers.raw_http import request

    contents = [json.dumps({"image": base64.b64encode(content).decode()}).encode() for content in files]
    return [request(path, body, Content_Type="application/json") for body in contents]


def saturated_rate(port: int, requests: list[bytes], concurrency: int) -> float:
    """Return images per second with `concurrency` open requests."""
    from helpers.raw_http import send_requests

    started = time.monotonic()
    responses = asyncio.run(send_requests(port, requests, concurrency))
    assert {status for status, _, _ in responses} == {200}, responses[0][2][:300]
    return len(requests) / (time.monotonic() - started)


def open_loop_latencies(port: int, requests: list[bytes], rate: float, seconds: float, poisson: bool) -> list[float]:
    """Return the latencies of an open loop, which sends requests at fixed times without waiting for earlier ones.

    Args:
        port: Port of the server.
        requests: Requests, which repeat.
        rate: Requests per second.
        seconds: Duration of the load.
        poisson: True for Poisson arrivals, False for evenly spaced ones.
    """
    rng = np.random.default_rng(0)
    count = int(rate * seconds)
    gaps = rng.exponential(1 / rate, count) if poisson else np.full(count, 1 / rate)
    return asyncio.run(_send_at(port, requests, np.cumsum(gaps)))


async def _send_at(port: int, requests: list[bytes], times: np.ndarray) -> list[float]:
    from helpers.raw_http import send_request

    idle_connections: list[Any] = []
    started = time.monotonic()

    async def send_on_time(i: int) -> float:
        due = started + times[i]
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        last_used, reader, writer = idle_connections.pop() if idle_connections else (time.monotonic(), None, None)
        if writer is None or time.monotonic() - last_used > 2:  # the service closes idle connections after 5 s
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _, _ = await send_request(reader, writer, requests[i % len(requests)])
        assert status == 200
        idle_connections.append((time.monotonic(), reader, writer))
        return time.monotonic() - due

    return list(await asyncio.gather(*(send_on_time(i) for i in range(len(times)))))


def idle_latencies(
    port: int, requests: list[bytes], runner: Runner, files: list[bytes]
) -> tuple[list[float], list[float]]:
    """Return the seconds of single requests, and of decoding and the model on the same images, alternating.

    The requests use a blocking socket, since the event loop of a client would be measured with the service.
    """
    by_request, offline = [], []
    buffer = memoryview(bytearray(8 << 20))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request_bytes, content in zip(requests, files, strict=True):
            started = time.monotonic()
            send_over_socket(connection, request_bytes, buffer)
            by_request.append(time.monotonic() - started)
            started = time.monotonic()
            runner(prepare(runner, content)[None])
            offline.append(time.monotonic() - started)
    return by_request, offline


def send_over_socket(connection: socket.socket, content: bytes, buffer: memoryview) -> None:
    """Send one request and read its response into `buffer`; the headers must arrive in one piece."""
    connection.sendall(content)
    received = connection.recv_into(buffer)
    head = bytes(buffer[:received]).partition(b"\r\n\r\n")[0]
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    assert length is not None, head
    assert head.startswith(b"HTTP/1.1 200 "), head
    remaining = len(head) + 4 + int(length[1]) - received
    if remaining:
        connection.recv_into(buffer[received:], remaining, socket.MSG_WAITALL)


def start_server(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Start a server process, wait until it answers, and return it with its port."""
    import httpx

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = next((line for line in process.stdout if re.search(r":[0-9]{4,5}", line)), "")
    match = re.search(r":([0-9]{4,5})", line)
    assert match, "the server did not start"
    port = int(match[1])
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                return process, port
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"no answer from {' '.join(command)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = find_images(options.images).paths
    files = [paths[i % len(paths)].read_bytes() for i in range(options.count)]
    result = measure(options.artifact, files, options.rounds, options.seconds)
    console.print(build_table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def start_litserve(artifact: Path) -> tuple[subprocess.Popen[str] | None, int]:
    """Start LitServe and return its process and port; (None, 0) where it is not installed."""
    if not find_spec("litserve"):
        console.print("LitServe is skipped; pip install litserve")
        return None, 0
    return start_server([sys.executable, str(Path(__file__).with_name("litserved.py")), str(artifact), "8765"])


def measure(artifact: Path, files: list[bytes], rounds: int, seconds: float) -> dict[str, Any]:
    """Start the servers, measure everything, and stop the servers."""
    runner = load(artifact)
    server, port = start_server([sys.executable, "-m", "gtsa_kit", "serve", str(artifact), "--port", "0"])
    lit_server, lit_port = start_litserve(artifact)
    rates: dict[str, list[float]] = {"offline": [], "gtsa serve": [], "LitServe": []}
    requests, lit_requests = build_requests(files, QUERY), build_json_requests(files, "/predict")
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as load_process:
            run_load = lambda *args: load_process.submit(*args).result()  # noqa: E731
            offline_rate(runner, files[:BATCH])
            run_load(saturated_rate, port, requests[:CONCURRENCY], CONCURRENCY)
            for _ in range(rounds):
                rates["offline"].append(offline_rate(runner, files))
                rates["gtsa serve"].append(run_load(saturated_rate, port, requests, CONCURRENCY))
                if lit_server:
                    rates["LitServe"].append(run_load(saturated_rate, lit_port, lit_requests, CONCURRENCY))
            by_request, offline = idle_latencies(port, requests[:60], runner, files[:60])
            half = statistics.median(rates["gtsa serve"]) / 2
            regular = run_load(open_loop_latencies, port, requests, half, seconds, False)
            poisson = run_load(open_loop_latencies, port, requests, half, seconds, True)
    finally:
        for process in filter(None, (server, lit_server)):
            process.terminate()
            process.wait(60)
    ratios = [a / b for a, b in zip(rates["gtsa serve"], rates["offline"], strict=True)]
    return {
        "artifact": artifact.name,
        "provider": runner.provider,
        "rates": {name: values for name, values in rates.items() if values},
        "serve_over_offline": statistics.median(ratios),
        "half_load_rate": half,
        **latency_figures(by_request, offline, regular, poisson),
    }


def latency_figures(
    by_request: list[float], offline: list[float], regular: list[float], poisson: list[float]
) -> dict[str, float]:
    """Return medians and quantiles of latencies in seconds, in milliseconds and relative to a single request."""
    single = statistics.median(by_request)
    return {
        "single_ms": 1000 * single,
        "idle_adds_ms": 1000 * statistics.median(a - b for a, b in zip(by_request, offline, strict=True)),
        "p50_regular_ms": 1000 * float(np.quantile(regular, 0.5)),
        "p99_regular_ms": 1000 * float(np.quantile(regular, 0.99)),
        "p99_poisson_ms": 1000 * float(np.quantile(poisson, 0.99)),
        "p99_regular_over_single": float(np.quantile(regular, 0.99)) / single,
        "p99_poisson_over_single": float(np.quantile(poisson, 0.99)) / single,
    }


def build_table(result: dict[str, Any]) -> Table:
    """Return a table of the results."""
    rows = Table(title=f"{result['artifact']}, {result['provider']}", show_header=False)
    for name, values in result["rates"].items():
        rounds = ", ".join(f"{rate:.1f}" for rate in values)
        rows.add_row(f"{name}, images per second", f"{statistics.median(values):.1f}  ({rounds})")
    for name, value in result.items():
        if isinstance(value, float):
            rows.add_row(name.replace("_", " "), f"{value:.2f}")
    return rows


if __name__ == "__main__":
    main()
