"""Too much, too slow, gone away, told to stop: what was accepted is answered, the rest is told at once."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from helpers.commands import GTSA, one_thread
from helpers.image_samples import encoded, scene
from helpers.raw_http import ask_many, raw, request, status_of
from helpers.running_service import Serving, Slow, wait_for

from gtsa_kit.export import Runner
from gtsa_kit.service.server import PatientProtocol

PNG = encoded(scene(), "PNG")
ASK = request("/v1/features?size=32&outputs=embedding", PNG, Content_Type="image/png")


def test_a_full_queue_answers_503_at_once_and_finishes_what_it_took(serving: Serving, runner: Runner) -> None:
    with serving(with_runner=Slow(runner, 0.5), max_pending=6, max_batch=3) as served:
        started = time.monotonic()
        answers = asyncio.run(timed(served.port, [ASK] * 30))
        assert served.empties()
    good = [seconds for status, _, seconds in answers if status == 200]
    full = [(headers, seconds) for status, headers, seconds in answers if status == 503]
    assert len(good) == 6
    assert len(full) == 24
    for headers, seconds in full:
        assert int(headers["retry-after"]) >= 1
        assert seconds < 0.5
    assert time.monotonic() - started < 10


async def timed(port: int, requests: list[bytes]) -> list[tuple[int, dict[str, str], float]]:
    started = time.monotonic()

    async def one(content: bytes) -> tuple[int, dict[str, str], float]:
        status, headers, _ = (await ask_many(port, [content], 1))[0]
        return status, headers, time.monotonic() - started

    return await asyncio.gather(*map(one, requests))


def test_memory_is_a_bound_too_and_more_than_could_ever_fit_is_413(serving: Serving, runner: Runner) -> None:
    with serving(with_runner=Slow(runner, 0.3), max_pending_mb=8) as served:
        large = request("/v1/features?size=1024&outputs=embedding", PNG, Content_Type="image/png")
        statuses = [a[0] for a in asyncio.run(ask_many(served.port, [large] * 4, 4))]
        assert set(statuses) == {413}
        middle = request("/v1/features?size=512&outputs=embedding", PNG, Content_Type="image/png")
        statuses = [a[0] for a in asyncio.run(ask_many(served.port, [middle] * 6, 6))]
        assert set(statuses) == {200, 503}
        assert served.empties()


def test_several_images_count_as_several(serving: Serving, runner: Runner) -> None:
    with serving(with_runner=Slow(runner, 0.2), max_pending=5) as served, served.client() as client:
        files = [("images", ("a", PNG, "image/png"))] * 6
        assert client.post("/v1/features?size=32", files=files).status_code == 503
        assert client.post("/v1/features?size=32", files=files[:5]).status_code == 200
        assert served.empties()


def test_a_client_that_goes_away_frees_its_place_and_its_turn(serving: Serving, runner: Runner) -> None:
    slow = Slow(runner, 0.4)
    with serving(with_runner=slow, max_batch=1, max_pending=8) as served:
        patient = threading.Thread(target=lambda: raw(served.port, ASK, 2))
        patient.start()
        assert wait_for(lambda: len(slow.batches) > 1)  # the first is the warm-up
        gone = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(7)]
        for connection in gone:
            connection.sendall(ASK)
        assert wait_for(lambda: served.pending.images == 8)
        for connection in gone:
            connection.close()
        assert wait_for(lambda: served.pending.images <= 1, 0.35), served.pending
        patient.join()
        assert served.empties()
    assert len(slow.batches) <= 3, "the model worked for clients that had gone"


def test_clients_that_send_or_take_too_slowly_are_let_go(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, runner: Runner
) -> None:
    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.4)
    monkeypatch.setattr(PatientProtocol, "write_seconds", 0.4)
    with serving(body_seconds=0.5) as served:
        started = time.monotonic()
        assert raw(served.port, b"", 5) == b""  # says nothing
        assert raw(served.port, b"GET / HTTP/1.1\r\nX: ", 5) == b""  # headers without an end
        kept = request("/health", method="GET") + b"GET /health HTTP/1.1\r\nX: "
        assert raw(served.port, kept, 5).count(b"200 OK") == 1
        half = request("/v1/features", PNG[:50], Content_Type="image/png", Content_Length="5000", Connection="close")
        assert status_of(raw(served.port, half, 8)) == 408
        assert time.monotonic() - started < 10
        assert served.empties()
        stuck = stuck_reader(served.port)
        assert wait_for(lambda: served.pending.images > 0, 5)
        assert served.empties(6), "an answer that nobody takes is kept"
        stuck.close()


def stuck_reader(port: int) -> socket.socket:
    """Asks for much and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    query = "size=1024&format=json&dtype=float32&outputs=feature_map,feature_map_0,feature_map_1"
    connection.sendall(request(f"/v1/features?{query}", PNG, Content_Type="image/png"))
    return connection


def start(artifact: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """`gtsa serve` in a process of its own, when it is ready."""
    command = [*GTSA, "serve", str(artifact), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=one_thread())
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:[0-9]+", line)
    assert found, line
    assert wait_for(lambda: is_ready(found[0]), 60)
    return process, found[0]


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_answers_what_was_accepted_and_exits_with_0(artifact: Path, workers: str) -> None:
    process, url = start(artifact, "--workers", workers)
    port = int(url.rpartition(":")[2])
    # A body of which half is there when the signal comes: accepted, so it is answered.
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(ASK[:-20])
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    connection.sendall(ASK[-20:])
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    assert status_of(answer) == 200
    assert answer.endswith(b"\x00\x00")  # of the end of a zip
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    with pytest.raises(OSError, match=r"."):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_the_command_says_in_a_line_what_is_wrong(artifact: Path, gtsa, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for options, word in (
        ([tmp_path / "no.onnx"], "does not exist"),
        ([artifact, "--port", port], "in use"),
        ([artifact, "--max-batch", 0], "--max-batch must be above 0"),
        ([artifact, "--token", ""], "--token is empty"),
    ):
        result = gtsa("serve", *options)
        assert result.returncode in (1, 2)
        assert word in result.stderr
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) <= 2
    taken.close()
    assert os.environ.get("PROMETHEUS_MULTIPROC_DIR") is None
