"""Job "serve": requests for the vector of one image over HTTP, in a closed loop of one and of eight clients.

The client and the images are the same for all. A body is JSON with the image as base64, and the answer is JSON with
numbers; `gtsa serve` also takes the file as it is, which is measured as well.
"""

import asyncio
import base64
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_files import find_images
from peers_parts.environments import PeerError, last_line
from peers_parts.measured import kill_session, run_checked, session_cpu_seconds, session_memory_mb
from peers_parts.rounds import Column, Contestant, Job, Measurement
from peers_parts.setting import PATHS, SCRIPTS, Setting, gtsa

COLUMNS = (
    Column("rate_1", "requests/s, 1 client", 1),
    Column("p50_1", "p50 ms", 1),
    Column("p95_1", "p95 ms", 1),
    Column("rate_8", "requests/s, 8 clients", 1),
    Column("p50_8", "p50 ms", 1),
    Column("p95_8", "p95 ms", 1),
    Column("cpu_ms_8", "CPU ms per request", 1),
    Column("memory_mb", "MB", 0),
    Column("start_seconds", "s to start", 1),
)
RATIOS = (("rate_1", True), ("rate_8", True), ("cpu_ms_8", False))
OURS = "gtsa serve, /v1/embeddings"
START_SECONDS = 600


@dataclass(frozen=True)
class Server:
    """Command of a server, and requests to it."""

    command: Callable[[Setting, int], tuple[list[str], dict[str, str]]]
    """Command and environment variables, for a port."""
    path: str
    body: Callable[[bytes], bytes]
    """Body of the request for the file of an image."""
    content_type: str = "application/json"


def own_command(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
    """Return our command."""
    return gtsa("serve", str(setting.exported("onnx")), "--port", str(port)), PATHS


def litserve_command(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command of LitServe, on the same file."""
    script = [str(SCRIPTS / "litserve_server.py"), str(setting.exported("onnx")), str(port)]
    return [setting.python("litserve"), *script], {}


def infinity_command(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command of infinity, on a CLIP whose image half is as large as the ViT."""
    python, model = setting.python("infinity"), setting.out / "weights" / f"{setting.arch}-clip"
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    if not (model / "preprocessor_config.json").exists():
        log = setting.out / "weights" / "clip.log"
        run_checked([python, str(SCRIPTS / "infinity_weights.py"), str(setting.width), str(model)], log, **quiet)
    command = [str(Path(python).with_name("infinity_emb")), "v2", "--model-id", str(model), "--port", str(port)]
    return [
        *command,
        "--served-model-name",
        "clip",
        "--no-model-warmup",
        "--engine",
        "torch",
        "--device",
        "cpu",
        "--no-bettertransformer",
    ], quiet


def base64_body(content: bytes) -> bytes:
    """Return the body of LitServe's server."""
    return json.dumps({"image": base64.b64encode(content).decode()}).encode()


def openai_body(content: bytes) -> bytes:
    """Return the body of the embeddings of OpenAI's API, as we and infinity read it for images."""
    uri = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    return json.dumps({"model": "clip", "modality": "image", "input": [uri]}).encode()


SERVERS = {
    OURS: Server(own_command, "/v1/embeddings", openai_body),
    "gtsa serve, /v1/features": Server(
        own_command, "/v1/features?outputs=embedding&format=safetensors", bytes, "image/jpeg"
    ),
    "LitServe": Server(litserve_command, "/predict", base64_body),
    "infinity": Server(infinity_command, "/embeddings", openai_body),
}


def serve_job(setting: Setting) -> Job:
    """Return the job."""
    contestants = (
        Contestant(name, partial(measure, setting, server), "" if name.startswith("gtsa") else OURS)
        for name, server in SERVERS.items()
    )
    return Job("serve", f"Vectors over HTTP, ViT-{setting.arch}/16 at 224", COLUMNS, RATIOS, tuple(contestants))


def measure(setting: Setting, server: Server, folder: Path) -> Measurement:
    """Start a server, ask it with one and with eight clients, and end it."""
    from helpers.raw_http import request

    paths = find_images(setting.images).paths
    count = 16 if setting.micro else 96
    files = [paths[i % len(paths)].read_bytes() for i in range(count)]
    requests = [request(server.path, server.body(file), Content_Type=server.content_type) for file in files]
    with running(setting, server, folder) as (process, port, start_seconds):
        closed_loop(port, requests[:8], 8)
        figures: Measurement = {"start_seconds": start_seconds}
        for clients in (1, 8):
            own, before = requests[: count // 2] if clients == 1 else requests, session_cpu_seconds(process)
            seconds, latencies = closed_loop(port, own, clients)
            figures |= {
                f"rate_{clients}": len(own) / seconds,
                f"p50_{clients}": 1000 * float(np.quantile(latencies, 0.5)),
                f"p95_{clients}": 1000 * float(np.quantile(latencies, 0.95)),
                f"cpu_ms_{clients}": 1000 * (session_cpu_seconds(process) - before) / len(own),
            }
        return figures | {"memory_mb": session_memory_mb(process)}


@contextmanager
def running(setting: Setting, server: Server, folder: Path) -> Iterator[tuple[int, int, float]]:
    """Start a server and yield its process, its port, and the seconds until it answered; end it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, environment = server.command(setting, port)
    started = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment, start_new_session=True
        )
        try:
            wait_for(process, port, folder / "log.txt")
            yield process.pid, port, time.perf_counter() - started
        finally:
            kill_session(process.pid)
            process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server answers /health.

    Raises:
        PeerError: It ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerError(f"exit code {process.returncode}: {last_line(log.read_text(errors='replace'))}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise PeerError(f"no answer in {START_SECONDS} s: {last_line(log.read_text(errors='replace'))}")


def closed_loop(port: int, requests: list[bytes], clients: int) -> tuple[float, list[float]]:
    """Send all requests from clients that wait for each answer; return the seconds, and the latency of each.

    Raises:
        PeerError: An answer is an error; the message is its beginning.
    """
    started = time.perf_counter()
    latencies = asyncio.run(ask(port, requests, clients))
    return time.perf_counter() - started, latencies


async def ask(port: int, requests: list[bytes], clients: int) -> list[float]:
    """Send the requests over one connection for each client, and return their latencies in seconds."""
    from helpers.raw_http import send_request

    latencies, remaining = [], iter(requests)

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for content in remaining:
            started = time.perf_counter()
            status, headers, body = await send_request(reader, writer, content)
            latencies.append(time.perf_counter() - started)
            if status != 200:
                raise PeerError(f"status {status}: {body[:120]!r}")
            if headers.get("connection") == "close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    return latencies
