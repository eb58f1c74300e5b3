"""Overload, slow clients, disconnects and shutdown: accepted requests are answered, others get 503 immediately."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from helpers import running_service
from helpers.commands import GTSA, one_thread
from helpers.image_samples import encoded, scene
from helpers.processes import Forked, start_gtsa
from helpers.raw_http import request, send_raw, send_requests, status_of
from helpers.running_service import GatedRunner, ServiceFactory, SlowRunner, wait_for
from helpers.signals import WAIT_SECONDS

from gtsa_kit.export import Runner
from gtsa_kit.service.server import TimeoutH11Protocol, build_uvicorn_config
from gtsa_kit.service.settings import ServiceSettings

PNG = encoded(scene(), "PNG")
REQUEST = request("/v1/features?size=32&outputs=embedding", PNG, Content_Type="image/png")


def test_a_full_queue_answers_503_immediately_and_accepted_requests_finish(
    start_service: ServiceFactory, runner: Runner
) -> None:
    """The model computes nothing until all rejected requests are answered."""
    gated = GatedRunner(runner, warm=True)
    with start_service(with_runner=gated, max_pending=6, max_batch=3) as service:
        responses = asyncio.run(send_and_release(service.port, [REQUEST] * 30, 24, gated))
        assert service.drains()
    statuses = [status for status, _ in responses]
    assert (statuses.count(200), statuses.count(503)) == (6, 24)
    assert all(int(headers["retry-after"]) >= 1 for status, headers in responses if status == 503)


async def send_and_release(
    port: int, requests: list[bytes], rejected: int, gated: GatedRunner
) -> list[tuple[int, dict[str, str]]]:
    """Send requests together, and release the model when `rejected` of them are answered with 503."""
    responses: list[tuple[int, dict[str, str]]] = []

    async def one(content: bytes) -> None:
        status, headers, _ = (await send_requests(port, [content], 1))[0]
        responses.append((status, headers))
        if [status for status, _ in responses].count(503) == rejected:
            gated.gate.set()

    await asyncio.gather(*map(one, requests))
    return responses


def test_memory_is_limited_and_a_request_above_the_limit_is_413(start_service: ServiceFactory, runner: Runner) -> None:
    with start_service(with_runner=SlowRunner(runner, 0.3), max_pending_mb=8) as service:
        large = request("/v1/features?size=1024&outputs=embedding", PNG, Content_Type="image/png")
        statuses = [a[0] for a in asyncio.run(send_requests(service.port, [large] * 4, 4))]
        assert set(statuses) == {413}
        medium = request("/v1/features?size=512&outputs=embedding", PNG, Content_Type="image/png")
        statuses = [a[0] for a in asyncio.run(send_requests(service.port, [medium] * 6, 6))]
        assert set(statuses) == {200, 503}
        assert service.drains()


def test_each_image_of_a_request_counts(start_service: ServiceFactory, runner: Runner) -> None:
    with start_service(with_runner=SlowRunner(runner, 0.2), max_pending=5) as service, service.client() as client:
        files = [("images", ("a", PNG, "image/png"))] * 6
        assert client.post("/v1/features?size=32", files=files).status_code == 503
        assert client.post("/v1/features?size=32", files=files[:5]).status_code == 200
        assert service.drains()


def test_a_disconnected_request_leaves_the_queue(start_service: ServiceFactory, runner: Runner) -> None:
    gated = GatedRunner(runner, warm=True)
    with start_service(with_runner=gated, max_batch=1, max_pending=8) as service:
        waiting_client = threading.Thread(target=lambda: send_raw(service.port, REQUEST, 2))
        waiting_client.start()
        assert wait_for(lambda: len(gated.batches) > 1)  # the first is the warm-up
        connections = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(7)]
        for connection in connections:
            connection.sendall(REQUEST)
        assert wait_for(lambda: service.limiter.images == 8)
        for connection in connections:
            connection.close()
        assert wait_for(lambda: service.limiter.images <= 1), service.limiter
        gated.gate.set()
        waiting_client.join()
        assert service.drains()
    assert len(gated.batches) <= 3, "the model computed images of disconnected clients"


def test_a_client_that_leaves_within_its_body_is_no_error_of_the_service(
    start_service: ServiceFactory, caplog: pytest.LogCaptureFixture
) -> None:
    with start_service() as service, service.client() as client:
        for body in (REQUEST[: len(REQUEST) // 2], REQUEST[: REQUEST.index(b"\r\n\r\n") + 4]):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(body)
        assert service.drains()
        left = 'gtsa_requests_total{route="/v1/features",status="499"} 2.0'
        assert wait_for(lambda: left in client.get("/metrics").text)
        assert "gtsa_errors_total{" not in client.get("/metrics").text
    assert "Traceback" not in caplog.text
    assert "Exception" not in caplog.text


def test_connections_of_slow_clients_are_closed(
    start_service: ServiceFactory, monkeypatch: pytest.MonkeyPatch, runner: Runner
) -> None:
    monkeypatch.setattr(TimeoutH11Protocol, "header_timeout", 0.4)
    monkeypatch.setattr(TimeoutH11Protocol, "write_timeout", 0.4)
    monkeypatch.setattr(running_service, "build_uvicorn_config", config_of_short_connections)
    with start_service(body_timeout=0.5) as service:
        started = time.monotonic()
        assert send_raw(service.port, b"", WAIT_SECONDS) == b""  # sends nothing
        assert send_raw(service.port, b"GET / HTTP/1.1\r\nX: ", WAIT_SECONDS) == b""  # headers without an end
        kept_alive = request("/health", method="GET") + b"GET /health HTTP/1.1\r\nX: "
        assert send_raw(service.port, kept_alive, WAIT_SECONDS).count(b"200 OK") == 1
        partial = request("/v1/features", PNG[:50], Content_Type="image/png", Content_Length="5000", Connection="close")
        assert status_of(send_raw(service.port, partial, WAIT_SECONDS)) == 408
        assert time.monotonic() - started < WAIT_SECONDS, "a connection was not closed"
        assert service.drains()
        stalled = open_stalled_reader(service.port)
        assert wait_for(lambda: service.limiter.images > 0)
        assert service.drains(), "a response that nobody reads is kept"
        stalled.close()


def config_of_short_connections(app: Any, settings: ServiceSettings) -> uvicorn.Config:
    """Return the service's configuration, with which a connection without a request is kept for less than 5 seconds."""
    config = build_uvicorn_config(app, settings)
    config.timeout_keep_alive = 0.4  # type: ignore[assignment]
    return config


def open_stalled_reader(port: int) -> socket.socket:
    """Request a large response and read nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    query = "size=1024&format=json&dtype=float32&outputs=feature_map,feature_map_0,feature_map_1"
    connection.sendall(request(f"/v1/features?{query}", PNG, Content_Type="image/png"))
    return connection


def start_one(artifact: Path, folder: Path) -> tuple[Forked, str]:
    """Start `gtsa serve` in a forked process, and wait until it is ready; return its address."""
    process = start_gtsa(folder, "serve", artifact, "--port", 0)
    expected = rf"loading {re.escape(str(artifact))}\n.*encoder.safetensors in PyTorch on cpu, on (http://127\.0\.0\.1:[0-9]+)\n"
    process.wait_for(lambda: process.stderr.count("\n") == 2)
    url = re.fullmatch(expected, process.stderr)
    assert url, process.stderr
    assert wait_for(lambda: is_ready(url[1]), 240)
    return process, url[1]


def start_two(artifact: Path) -> tuple[subprocess.Popen[str], str]:
    """Start `gtsa serve` with two workers as a process, and wait until they are ready; return its address."""
    command = [*GTSA, "serve", str(artifact), "--port", "0", "--workers", "2", "--json"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=one_thread())
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline() == f"loading {artifact}\n"
    ready = json.loads(process.stdout.readline())  # two workers on a busy machine take minutes
    assert is_ready(ready["url"])
    assert ready["workers"] == 2
    assert ready["artifact"] == str(artifact)
    assert ready["architecture"] == "vit_test"
    assert ready["provider"] == "PyTorch on cpu"
    assert ready["outputs"] == ["embedding", "feature_map"]
    assert ready["limits"]["max_size"] == 1024
    return process, str(ready["url"])


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_answers_accepted_requests_and_exits_with_0(artifact: Path, workers: int, tmp_path: Path) -> None:
    process, url = start_one(artifact, tmp_path) if workers == 1 else start_two(artifact)
    port = int(url.rpartition(":")[2])
    # Part of the body has arrived when the signal comes: the request is accepted, so it is answered.
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
    content = request("/v1/features?size=32&outputs=embedding", PNG, Content_Type="image/png", Expect="100-continue")
    connection.sendall(content[:-20])
    assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")  # the service reads the body
    process.send_signal(signal.SIGTERM)
    assert wait_for(lambda: not is_ready(url))
    connection.sendall(content[-20:])
    response = b""
    while piece := connection.recv(65536):
        response += piece
    assert status_of(response) == 200
    assert response.endswith(b"\x00\x00")  # end of a zip file
    assert process.wait(WAIT_SECONDS) == 0
    if isinstance(process, Forked):
        assert (process.stderr.count("\n"), process.stdout) == (2, "")
    else:
        assert process.stderr is not None
        assert process.stdout is not None
        assert (process.stderr.read(), process.stdout.read()) == ("", "")
    with pytest.raises(OSError, match=r"."):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_the_command_prints_one_line_about_an_error(artifact: Path, gtsa_here, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    occupied = socket.create_server(("127.0.0.1", 0))
    port = occupied.getsockname()[1]
    for options, word in (
        ([tmp_path / "no.onnx"], "does not exist"),
        ([artifact, "--port", port], "in use"),
        ([artifact, "--max-batch", 0], "--max-batch must be above 0"),
        ([artifact, "--token", ""], "--token is empty"),
    ):
        result = gtsa_here("serve", *options)
        assert result.returncode in (1, 2)
        assert word in result.stderr
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) <= 3
    occupied.close()
    assert os.environ.get("PROMETHEUS_MULTIPROC_DIR") is None
